"""Secrets by reference."""

import os
from pathlib import Path

import pytest

from actors.maintenance.secrets import MOST_BYTES, SecretMissing, read_secret
from service.errors import ConfigError
from service.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("OUTSIDE")
    folder = tmp_path / "secrets"
    folder.mkdir()
    return folder


async def test_a_secret_is_read_anew_each_time_without_its_newline(folder: Path) -> None:
    settings = Settings(secrets_dir=folder)
    for written, read in (("whsec_a\n", "whsec_a"), ("b\r\n", "b"), ("c d", "c d"), ("two\nlines\n", "two\nlines")):
        (folder / "hook.key-1_A").write_text(written, newline="")
        assert await read_secret(settings, "hook.key-1_A") == read


async def test_a_secret_is_found_as_kubernetes_mounts_it(folder: Path) -> None:
    (folder / "..2026_11_22").mkdir()
    (folder / "..2026_11_22" / "key").write_text("mounted")
    (folder / "..data").symlink_to("..2026_11_22")
    (folder / "key").symlink_to("..data/key")

    assert await read_secret(Settings(secrets_dir=folder), "key") == "mounted"


@pytest.mark.parametrize(
    "reference",
    ["../outside", "..", ".", "", "/etc/passwd", "a/b", "..data", ".hidden", "a\x00", "a\n", "x" * 201, "é"],
)
async def test_a_reference_leads_nowhere_else(folder: Path, reference: str) -> None:
    (folder / ".hidden").write_text("HIDDEN")
    with pytest.raises(SecretMissing, match="not the name of a secret"):
        await read_secret(Settings(secrets_dir=folder), reference)


async def test_what_is_no_secret_is_refused_by_name_and_never_shown(folder: Path) -> None:
    (folder / "empty").write_text(" \n")
    (folder / "huge").write_bytes(b"SECRET" * MOST_BYTES)
    (folder / "binary").write_bytes(b"SECRET\xff")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")

    for name in ("empty", "huge", "binary", "folder", "pipe", "missing"):
        with pytest.raises(SecretMissing, match=f"'{name}'") as refused:
            await read_secret(Settings(secrets_dir=folder), name)
        assert "SECRET" not in str(refused.value)


async def test_without_a_folder_the_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'key' is wanted; set VERGER_SECRETS_DIR"):
        await read_secret(Settings(), "key")
