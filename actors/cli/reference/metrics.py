"""The second half of docs/metrics.md, made from the metrics."""

from service.metrics import BUCKETS, Metrics

HEAD = """## All metrics

| Metric | Kind | Labels | Roles | Means |
|---|---|---|---|---|
"""


def page() -> str:
    """Every metric."""
    rows = [
        f"| `{each.name}` | {each.kind} | {' '.join(f'`{label}`' for label in each.labels) or '–'} | {each.role} "
        f"| {each.meaning} |"
        for each in Metrics()
    ]
    buckets = " ".join(f"{bound:g}" for bound in BUCKETS)
    return f"{HEAD}{chr(10).join(rows)}\n\nBuckets of histograms, in seconds: {buckets}.\n"
