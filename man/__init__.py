"""The manual pages, made from the commands' own help and the settings' own documentation."""
