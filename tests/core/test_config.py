import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from core.config.engines import SVD_XT_REVISION
from core.config.settings import Settings, read_settings
from core.engines.known import known_engines
from core.process.unusable import EXIT_UNUSABLE

ENV_EXAMPLE = Path(__file__).parents[2] / ".env.example"


def test_the_env_example_lists_every_setting_with_its_default() -> None:
    lines = [line for line in ENV_EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    names = [line.partition("=")[0] for line in lines]
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)
    assert Settings(_env_file=ENV_EXAMPLE) == Settings(_env_file=None)


def test_a_copy_of_the_env_example_changes_nothing() -> None:
    """Some programs look whether a setting was made: scripts/serve for a Redis, compose for AUTH."""
    made = Settings(_env_file=ENV_EXAMPLE).model_fields_set
    assert made.isdisjoint({"redis_url", "redis_host", "auth"})


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


@pytest.mark.parametrize(
    "options",
    [
        *(
            "sslmode=verify-full&sslrootcert=system",
            "options=-csearch_path%3Dkinora",
            "target_session_attrs=read-write",
        ),
        *("host=/run/postgresql", "host=one:5432&host=two:5433", "keepalives_idle=30", "application_name=kinora"),
        *(f"sslmode=verify-ca&sslrootcert={ENV_EXAMPLE}", "gssencmode=disable", "dbname=d"),
    ],
)
def test_what_libpq_takes_may_stand_in_the_url(options: str) -> None:
    url = f"postgresql://u:p@/d?{options}"
    assert Settings(_env_file=None, database_url=url).database_url == url


def test_a_service_of_libpq_may_name_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "services").write_text("[kinora]\nhost=db.example\nport=6432\ndbname=kinora\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    url = "postgresql:///?service=kinora"
    assert Settings(_env_file=None, database_url=url).database_url == url


def test_without_urls_both_stores_are_in_the_data_folder(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/kinora.db"
    assert settings.resolved_storage_url == f"file://{tmp_path}/storage"


# What a setting that does not take any word takes.
VALID = {
    "auth": "keys",
    "cors_origins": "https://page.example",
    "allowed_hosts": "kinora.example",
    "public_url": "https://video.example/kinora",
    "database_url": "postgresql://u:p@h/d",
    "storage_url": "s3://bucket/prefix",
    "redis_url": "rediss://redis.example/0",
    "fetch_allow": "pictures.example",
    "log_format": "console",
    "model_revision": "0" * 40,
    "result_redirect": "False",
}


def every_setting() -> list[str]:
    return [name for name in Settings.model_fields if f"{name}_file" not in Settings.model_fields]


@pytest.mark.parametrize("name", every_setting())
def test_every_setting_can_come_from_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = Settings.model_fields[name].default
    value = VALID.get(name, "7" if name.startswith("video_") else "")
    secret = tmp_path / "secret"
    secret.write_text(f"{value or (default + 1 if isinstance(default, int | float) else 'from a file')}\n")
    monkeypatch.setenv(f"{name.upper()}_FILE", str(secret))
    assert str(getattr(Settings(_env_file=None), name)) == secret.read_text().removesuffix("\n")


def test_the_file_of_a_secret_can_be_named_in_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("postgresql://u:p@h/d\n")
    (tmp_path / ".env").write_text(f"DATABASE_URL=\nDATABASE_URL_FILE={tmp_path}/secret\n")
    assert Settings(_env_file=tmp_path / ".env").database_url == "postgresql://u:p@h/d"


def test_only_the_last_newline_of_a_secret_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(" with spaces \n\n")
    monkeypatch.setenv("REDIS_USERNAME_FILE", str(tmp_path / "secret"))
    assert Settings(_env_file=None).redis_username == " with spaces \n"


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_PASSWORD"])
def test_a_secret_that_is_given_twice_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(f"{name}=one\n")
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "other"))
    with pytest.raises(SettingsError, match=f"set {name} or {name}_FILE, not both"):
        Settings(_env_file=tmp_path / ".env")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_secret_that_cannot_be_read_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    if content:
        secret.write_bytes(content)
    monkeypatch.setenv("DATABASE_URL_FILE", str(secret))
    with pytest.raises(SettingsError, match="DATABASE_URL_FILE cannot be read: "):
        Settings(_env_file=None)


@pytest.mark.parametrize("revision", ["main", "refs/pr/1", SVD_XT_REVISION[:7], f"{SVD_XT_REVISION}\n"])
def test_a_revision_that_may_move_is_refused(revision: str) -> None:
    with pytest.raises(ValidationError, match="model_revision"):
        Settings(_env_file=None, model_revision=revision)


def test_every_model_from_the_hub_is_pinned_to_a_commit() -> None:
    engines = known_engines(Settings(_env_file=None)).values()
    models = [engine for engine in engines if engine.model] + [engine.unet for engine in engines if engine.unet]
    assert len(models) == 4
    assert all(re.fullmatch(r"[0-9a-f]{40}", model.revision or "") for model in models)


UNFIT = "DATABASE_URL: what stands behind ? does not fit:"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AUTH", "maybe", "AUTH: Input should be 'auto', 'keys' or 'off'"),
        ("PUBLIC_URL", "video.example.com", "PUBLIC_URL: must be like https://"),
        *(
            (
                "PUBLIC_URL",
                f"https://video.example.com/{path}",
                "PUBLIC_URL: its path may hold no / as %2F and none of ",
            )
            for path in ("a%3Fb", "a%2Fb", "a%0d%0aX", "a\\b")
        ),
        (
            "PUBLIC_URL",
            "https://video.example.com/%ff",
            "PUBLIC_URL: has a port that is none, or a path that is no UTF-8",
        ),
        ("PUBLIC_URL", "https://video.example.com:99999", "PUBLIC_URL: has a port that is none"),
        ("PUBLIC_URL", "https://video.example.com:abc/k", "PUBLIC_URL: has a port that is none"),
        ("PUBLIC_URL", "https://ann:secret@video.example.com", "PUBLIC_URL: must name a host, with or without a port"),
        ("PUBLIC_URL", "https://video.example.com\\k", "PUBLIC_URL: must name a host, with or without a port"),
        ("ALLOWED_HOSTS", "a.example, http://b.example", "ALLOWED_HOSTS: must be like kinora.example.com"),
        ("ALLOWED_HOSTS", "b.example:8000", "ALLOWED_HOSTS: must be like kinora.example.com"),
        ("ALLOWED_HOSTS", "*", "ALLOWED_HOSTS: must be like kinora.example.com"),
        ("CORS_ORIGINS", "page.example", "CORS_ORIGINS: must be like https://"),
        ("RESULT_REDIRECT", "true", "RESULT_REDIRECT: needs an object store"),
        ("FETCH_ALLOW", "http://x", "FETCH_ALLOW: "),
        ("DATABASE_URL", "host/database", "DATABASE_URL: must be like postgresql://"),
        ("DATABASE_URL", "postgresql://ann:p@h:p/w/d", "DATABASE_URL: must be like postgresql://"),
        ("DATABASE_URL", "postgresql+asyncpg://ann:p/w@h/d", "DATABASE_URL: must begin with postgresql://"),
        (
            "DATABASE_URL",
            "postgresql://h/d?pgbouncer=true",
            "DATABASE_URL: PostgreSQL's clients know no option pgbouncer",
        ),
        (
            "DATABASE_URL",
            "mysql://h/d",
            "DATABASE_URL: must begin with postgresql:// or, for a file, be like sqlite:////",
        ),
        ("DATABASE_URL", "sqlite://", "DATABASE_URL: must name a file, like sqlite:////folder/kinora.db"),
        ("DATABASE_URL", "sqlite:///:memory:", "DATABASE_URL: must name a file, like sqlite:////folder/kinora.db"),
        ("DATABASE_URL", "sqlite:///kinora.db", "DATABASE_URL: must have the whole path of the file"),
        ("DATABASE_URL", "sqlite://folder/kinora.db", "DATABASE_URL: must have the whole path of the file"),
        ("DATABASE_URL", "sqlite:////folder/kinora.db?mode=ro", "DATABASE_URL: a file of SQLite takes no options"),
        ("DATABASE_URL", "postgresql://h:99999/d", "DATABASE_URL: the port must be from 1 to 65535"),
        ("DATABASE_URL", "postgresql://h/d?sslmode=bogus", f'{UNFIT} invalid sslmode value: "bogus"'),
        ("DATABASE_URL", "postgresql://h/d?sslnegotiation=direct", f'{UNFIT} weak sslmode "prefer" may not be used'),
        ("DATABASE_URL", "postgresql://h/d?channel_binding=x", f"{UNFIT} invalid channel_binding value"),
        ("DATABASE_URL", "postgresql://h/d?keepalives_idle=x", UNFIT),
        ("DATABASE_URL", "postgresql://h/d?service=none", f'{UNFIT} definition of service "none" not found'),
        ("DATABASE_URL", "postgresql://h/d?sslmode=require&sslmode=disable", "DATABASE_URL: sslmode stands in it more"),
        ("DATABASE_URL", "postgresql://h/d?sslrootcert=/nowhere", "DATABASE_URL: sslrootcert cannot be read"),
        ("STORAGE_URL", "ftp://host/folder", "STORAGE_URL: must be like s3://bucket/prefix"),
        ("STORAGE_URL", "s3://", "STORAGE_URL: must be like s3://bucket/prefix"),
        ("STORAGE_URL", "az://container", "STORAGE_URL: must be like s3://bucket/prefix"),
        ("STORAGE_URL", "memory://", "STORAGE_URL: must name a storage that all processes share"),
        ("REDIS_URL", "redis.example:6379", "REDIS_URL: must be like rediss://"),
        ("REDIS_URL", "redis://ann:p/w@redis.example/0", "REDIS_URL: must be like rediss://"),
        ("REDIS_URL", "redis://redis.example/zero", "REDIS_URL: must be like rediss://"),
        ("REDIS_URL", "redis://ann:p?w@redis.example/0", "REDIS_URL: must be like rediss://"),
        ("REDIS_URL", "redis://ann:12?p/w=1@redis.example/0", "REDIS_URL: must be like rediss://"),
        ("REDIS_URL", "redis://redis.example?ssl_ca_certs=/ca.pem", "REDIS_URL: ssl_ca_certs is of use with rediss://"),
        ("REDIS_URL", "rediss://redis.example?ssl_cert_reqs=maybe", "REDIS_URL: ssl_cert_reqs must be none, optional"),
        ("REDIS_URL", "rediss://redis.example?ssl_check_hostname=", "REDIS_URL: ssl_check_hostname must be true or"),
        ("REDIS_URL", "rediss://redis.example?ssl_ca_certs=/nowhere.pem", "REDIS_URL: ssl_ca_certs cannot be read"),
        ("REDIS_URL", f"rediss://redis.example?ssl_ca_certs={ENV_EXAMPLE}", "REDIS_URL: ssl_ca_certs cannot be read"),
        ("REDIS_URL", "rediss://redis.example?ssl_ca_path=/nowhere", "REDIS_URL: ssl_ca_path is no folder"),
        (
            "REDIS_URL",
            f"rediss://redis.example?ssl_certfile={ENV_EXAMPLE}",
            "REDIS_URL: ssl_certfile, with its ssl_key",
        ),
        ("REDIS_URL", f"rediss://redis.example?ssl_keyfile={ENV_EXAMPLE}", "REDIS_URL: ssl_keyfile needs ssl_certfile"),
        ("REDIS_URL", "rediss://redis.example?ca_file=/ca.pem", "REDIS_URL: has no option ca_file: there are db, "),
        ("REDIS_URL", "redis://redis.example?retry=3", "REDIS_URL: has no option retry: "),
        ("REDIS_URL", "redis://redis.example/0?retry=3&password=a@b", "REDIS_URL: has no option retry: "),
        ("REDIS_URL", "redis://p?ss@redis.example/0", "REDIS_URL: must be like rediss://"),
        ("REDIS_URL", "redis://redis.example?socket_timeout=5", "REDIS_URL: has no option socket_timeout: "),
        ("REDIS_URL", "redis://redis.example?decode_responses=true", "REDIS_URL: has no option decode_responses: "),
        ("REDIS_URL", "redis://redis.example?db=zero", "REDIS_URL: db must be a number"),
        ("REDIS_URL", "redis://redis.example?db=1&db=2", "REDIS_URL: db stands in it more than once"),
        (
            "REDIS_URL",
            "redis://redis.example?socket_connect_timeout=0",
            "REDIS_URL: socket_connect_timeout must be sec",
        ),
        ("REDIS_URL", "unix:///run/redis.sock?host=h", "REDIS_URL: has no option host: "),
        ("DATABASE_URL_FILE", "/nowhere", "DATABASE_URL_FILE cannot be read"),
    ],
)
def test_a_setting_that_does_not_fit_ends_the_process_with_a_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        read_settings()
    assert ended.value.code == EXIT_UNUSABLE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kinora: the settings do not fit: {said}")
    assert "p/w" not in line
