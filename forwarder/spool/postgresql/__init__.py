"""The replicated engine: a queue in a schema of a PostgreSQL database; the only place that knows psycopg."""
