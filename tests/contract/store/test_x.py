import pytest
from service.store.port import Store
@pytest.mark.parametrize("n", range(20))
async def test_x(store: Store, n: int) -> None:
    assert await store.tasks.get("x") is None
