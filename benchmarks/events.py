"""The events that are measured with: about 420 bytes each, as analytics events are."""

from __future__ import annotations

import json
from collections.abc import Iterator


def lines(count: int) -> Iterator[bytes]:
    """*count* complete events as compact JSON, each with an ``$insert_id`` of its own."""
    for number in range(count):
        yield json.dumps(
            {
                "event": "Order Completed",
                "properties": {
                    "time": 1_700_000_000_000 + number,
                    "distinct_id": f"user-{number % 9973:06d}",
                    "$insert_id": f"5d1c7a52-0000-4000-8000-{number:012d}",
                    "$browser": "Firefox",
                    "$os": "Linux",
                    "$current_url": "https://shop.example.com/checkout/done?step=4&from=cart",
                    "plan": "premium",
                    "amount": 129.95,
                    "currency": "EUR",
                    "items": 3,
                    "coupon": None,
                    "returning": True,
                    "campaign": "spring-newsletter-2026",
                    "country": "DE",
                    "city": "Heidelberg",
                },
            },
            separators=(",", ":"),
        ).encode()
