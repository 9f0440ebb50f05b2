"""Where a peer works: what the benchmark told it in its environment."""

import os

AMQP_URL = os.environ.get("BENCH_AMQP_URL", "")
MONGO_URL = os.environ.get("BENCH_MONGO_URL", "")
POSTGRES_URL = os.environ.get("BENCH_POSTGRES_URL", "")
REDIS_URL = os.environ.get("BENCH_REDIS_URL", "")
DATABASE = os.environ.get("BENCH_DATABASE", "")
"""A database that nobody else has; also the first part of every name on the broker."""
QUEUE = f"{DATABASE}.tasks"
STORES_RESULTS = os.environ.get("BENCH_RESULTS") == "yes"
NAP_SECONDS = 0.01
