"""A Prometheus of a test: scrapes one address every three seconds, and evaluates the alerts as often."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.monitoring.queries import PACK
from tests.servers import Server


class Prometheus(Server):
    def __init__(self, folder: Path, scrapes: str) -> None:
        """``scrapes``: host and port."""
        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "global": {"scrape_interval": "3s", "scrape_timeout": "3s", "evaluation_interval": "3s"},
            "rule_files": [str(PACK / "rules.yaml")],
            "scrape_configs": [{"job_name": "verger", "static_configs": [{"targets": [scrapes]}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(content), encoding="utf-8")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        return [
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]

    async def _settled(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            while (await http.get(f"{self.url}/-/ready")).status_code != 200:
                await asyncio.sleep(0.05)


async def asked(http: httpx.AsyncClient, path: str, **params: str) -> Any:
    """The data of an answer; an error if Prometheus refuses the question."""
    body = (await http.get(f"/api/v1/{path}", params=params)).json()
    assert body["status"] == "success", (params, body.get("error"))
    return body["data"]
