from pathlib import Path

import pytest

from core.config import Settings

ENV_EXAMPLE = Path(__file__).parents[2] / ".env.example"


def test_the_env_example_lists_every_setting_with_its_default() -> None:
    lines = [line for line in ENV_EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    names = [line.partition("=")[0] for line in lines]
    assert names == [name.upper() for name in Settings.model_fields]
    assert Settings(_env_file=ENV_EXAMPLE) == Settings(_env_file=None)


def test_every_line_of_the_env_example_is_explained() -> None:
    explained = False
    for line in ENV_EXAMPLE.read_text().splitlines():
        if line.startswith("# ") and not line.startswith("# ---"):
            explained = True
        elif not line:
            explained = False
        elif not line.startswith("#"):
            assert explained, line


def test_the_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("VIDEO_WIDTH=512\nREDIS_PORT=7000\nVIDEO_FRAMES=\n")
    monkeypatch.setenv("REDIS_PORT", "7001")
    settings = Settings(_env_file=tmp_path / ".env")
    assert (settings.video_width, settings.redis_port, settings.video_frames) == (512, 7001, None)


@pytest.mark.parametrize("url", ["postgres://u:p@h/d", "postgresql://u:p@h/d"])
def test_postgresql_is_reached_through_psycopg_3(url: str) -> None:
    assert Settings(_env_file=None, database_url=url).resolved_database_url == "postgresql+psycopg://u:p@h/d"


def test_without_urls_both_stores_are_in_the_data_folder(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/kinora.db"
    assert settings.resolved_storage_url == f"file://{tmp_path}/storage"
