"""Real servers with TLS and authentication switched on, and the users of docs/permissions.md."""

import asyncio
import os
import ssl
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aio_pika
import pika
from pymongo import MongoClient

from service.mongod import REPLICA_SET
from tests.actors.receivers import certificate
from tests.security.page import mongodb_commands, rabbitmq_commands
from tests.servers import MongoServer, RabbitServer

PASSWORD = "a p@ss:w/rd?"
ESCAPED = "a%20p%40ss%3Aw%2Frd%3F"
VHOST = "verger"


class ClientCertificate:
    """Signed by the certificate of a server, in files of a folder of its own."""

    def __init__(self, folder: Path, name: str, authority: Path) -> None:
        folder.mkdir()
        self.subject = f"CN={name},O=clients"
        self.file, self.key, self.both = (folder / each for each in ("certificate.pem", "key.pem", "both.pem"))
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-CA", str(authority), "-CAkey", str(authority.with_name("key.pem"))]
        command += ["-days", "2", "-subj", f"/O=clients/CN={name}", "-addext", "extendedKeyUsage=clientAuth"]
        command += ["-keyout", str(self.key), "-out", str(self.file)]
        subprocess.run(command, check=True, capture_output=True)
        self.both.write_text(self.key.read_text() + self.file.read_text())


class SecureMongo(MongoServer):
    """A replica set of one with ``--auth`` (its key file) and TLS alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.authority = folder / "certificate.pem"

    @property
    def url(self) -> str:
        return self.url_of("root")

    def url_of(self, user: str, **more: str) -> str:
        return self._url(f"{user}:{ESCAPED}@", replicaSet=REPLICA_SET, authSource="admin", **more)

    def url_with_certificate(self, **more: str) -> str:
        """For a login by certificate alone."""
        return self._url("", replicaSet=REPLICA_SET, authMechanism="MONGODB-X509", **more)

    def _url(self, login: str, **more: str) -> str:
        query = {"tls": "true", "tlsCAFile": str(self.authority), **more}
        return f"mongodb://{login}localhost:{self.port}/?{urlencode(query)}"

    def spawn(self) -> None:
        self.folder.mkdir(parents=True)
        certificate(self.folder, "localhost")
        both = (self.folder / "key.pem").read_text() + self.authority.read_text()
        (self.folder / "both.pem").write_text(both)
        key = self.folder / "members.key"
        key.write_text("one key for all members of the set")
        key.chmod(0o600)
        super().spawn()

    def _command(self) -> list[str]:
        tls = ("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(self.folder / "both.pem"))
        authority = ("--tlsCAFile", str(self.authority), "--tlsAllowConnectionsWithoutCertificates")
        return [*super()._command(), "--auth", "--keyFile", str(self.folder / "members.key"), *tls, *authority]

    async def _settled(self) -> None:
        await asyncio.to_thread(self._initiate)

    def _initiate(self) -> None:
        """By the exception for localhost: whoever is on the machine of a new server makes its first user."""
        with MongoClient[dict[str, Any]](self._url("", directConnection="true")) as client:
            members = [{"_id": 0, "host": f"localhost:{self.port}"}]
            client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
        with MongoClient[dict[str, Any]](self._url("", replicaSet=REPLICA_SET)) as client:
            client.admin.command({"createUser": "root", "pwd": PASSWORD, "roles": ["root"]})
        with self.as_user("root") as client:
            for command in mongodb_commands(PASSWORD):
                client.admin.command(command)

    def as_user(self, user: str) -> MongoClient[dict[str, Any]]:
        return MongoClient(self.url_of(user), tz_aware=True, w="majority")

    def refused(self) -> list[str]:
        """What the server has refused, as its log says."""
        lines = (self.folder / "mongod.log").read_text().splitlines()
        return [line for line in lines if "nauthorized" in line or "not authorized" in line]


class SecureRabbit(RabbitServer):
    """A node that listens for TLS alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.authority = folder / "certificate.pem"

    @property
    def url(self) -> str:
        return f"amqps://guest:guest@localhost:{self.port}/?{urlencode({'cafile': str(self.authority)})}"

    def url_of(self, user: str, authority: Path | None = None, **more: str) -> str:
        query = urlencode({"cafile": str(authority or self.authority), **more})
        return f"amqps://{user}:{ESCAPED}@localhost:{self.port}/{VHOST}?{query}"

    def _write_configuration(self) -> None:
        super()._write_configuration()
        certificate(self.folder, "localhost")
        settings = {
            "listeners.tcp": "none",
            "listeners.ssl.1": f"127.0.0.1:{self.port}",
            "ssl_options.cacertfile": self.authority,
            "ssl_options.certfile": self.authority,
            "ssl_options.keyfile": self.folder / "key.pem",
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "false",
            "disk_free_limit.absolute": "50MB",
            "log.console": "false",
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self.folder / "rabbitmq.conf").write_text(text)

    async def _settled(self) -> None:
        await (await aio_pika.connect(self.url)).close()
        await asyncio.to_thread(self._make_users)

    def _make_users(self) -> None:
        for role in ("scheduler", "worker", "api", "operator", "publisher", "observer"):
            (self.folder / f"{role}.password").write_text(PASSWORD + "\n")
        environment = dict(self._environment() or {})
        environment["PATH"] = os.pathsep.join((str(Path(self._command()[0]).parent), environment["PATH"]))
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", rabbitmq_commands()],
            cwd=self.folder,
            env=environment,
            check=True,
            capture_output=True,
        )

    def channel(self, user: str) -> pika.adapters.blocking_connection.BlockingChannel:
        """A channel of another client library, with confirms."""
        plain = user == "guest"
        login = pika.PlainCredentials(user, "guest" if plain else PASSWORD)
        tls = pika.SSLOptions(ssl.create_default_context(cafile=str(self.authority)), "localhost")
        where = pika.ConnectionParameters("localhost", self.port, VHOST, login, ssl_options=tls)
        channel = pika.BlockingConnection(where).channel()
        channel.confirm_delivery()
        return channel

    def refused(self) -> list[str]:
        """What the node has refused, as its log says."""
        said = "".join(path.read_text(errors="replace") for path in (self.folder / "log").glob("*.log"))
        return [line for line in said.splitlines() if "access_refused" in line or "ACCESS_REFUSED" in line]
