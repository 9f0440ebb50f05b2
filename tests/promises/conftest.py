"""An installation for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.promises.installation import Installation


@pytest.fixture
async def installation(
    mongo_url: str, amqp_url: str, database: str, prefix: str, tmp_path: Path
) -> AsyncIterator[Installation]:
    made = Installation(mongo_url, amqp_url, database, prefix, tmp_path)
    try:
        await made.open()
        yield made
    finally:
        await made.close()
