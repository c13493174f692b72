"""Settings: one declaration each, read strictly, and no secret in a repr or an error."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from penstock.errors import BadSetting
from penstock.settings import SECRET, SETTINGS, Settings

# A valid value of each setting that may hold a secret, with a word that must not appear.
SECRETS = {
    "PENSTOCK_DATABASE_URL": "postgresql://user:hush@db/name",
    "PENSTOCK_DATABASE_DIRECT_URL": "postgresql://user:hush@direct/name",
    "PENSTOCK_SECRET_KEY": "hush,hush-hush",
    "PENSTOCK_RATE_LIMIT_URL": "redis://:hush@redis:6379",
    "PENSTOCK_CONSOLE_OIDC_CLIENT_SECRET": "hush",
    "PENSTOCK_SMTP_PASSWORD": "hush",
}


def test_every_setting_has_a_field_and_every_field_but_one_a_setting() -> None:
    names = {f"PENSTOCK_{field.name.upper()}" for field in fields(Settings)}

    assert names - {row.name for row in SETTINGS} == {
        "PENSTOCK_SECRET_KEYS",  # its variable is PENSTOCK_SECRET_KEY
        "PENSTOCK_DATABASE_FROM",
    }
    assert len(SETTINGS) == len({row.name for row in SETTINGS}) == len(names) - 1


def test_an_empty_environment_has_the_default_of_each_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({row.name: "" for row in SETTINGS}) == Settings()


def test_a_default_that_is_set_is_the_same_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugins").mkdir()

    named = Settings.from_env({row.name: row.default for row in SETTINGS})

    assert named == Settings(
        plugin_path=(tmp_path / "plugins",), database_from="PENSTOCK_DATABASE_URL"
    )


def test_no_secret_is_in_a_repr() -> None:
    settings = Settings.from_env(
        SECRETS
        | {
            "PENSTOCK_CONSOLE_OIDC_ISSUER": "https://id.example",
            "PENSTOCK_CONSOLE_OIDC_CLIENT_ID": "console",
            "PENSTOCK_CONSOLE_URL": "https://ops.example",
        }
    )

    assert set(SECRETS) == SECRET
    assert settings.secret_keys == ("hush", "hush-hush")
    assert settings.oidc is not None
    assert settings.oidc.client_secret == "hush"
    assert "hush" not in repr(settings) + repr(settings.oidc)


@pytest.mark.parametrize("name", sorted(SECRET))
def test_a_file_can_hold_a_secret(tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRETS[name]}\n", encoding="utf-8")
    base = {"PENSTOCK_DATABASE_URL": SECRETS["PENSTOCK_DATABASE_URL"]}
    base.pop(name, None)  # leaves the URL that PENSTOCK_DATABASE_DIRECT_URL needs

    from_file = Settings.from_env(base | {f"{name}_FILE": str(file)})
    from_variable = Settings.from_env(base | {name: SECRETS[name]})

    assert replace(from_file, database_from="") == replace(from_variable, database_from="")
    with pytest.raises(BadSetting, match="are both set") as both:
        Settings.from_env(base | {name: "x", f"{name}_FILE": str(file)})
    with pytest.raises(BadSetting, match="can't read") as unreadable:
        Settings.from_env(base | {f"{name}_FILE": str(tmp_path / "missing")})
    assert "hush" not in f"{both.value} {unreadable.value}"


def test_only_a_secret_has_a_file() -> None:
    with pytest.raises(BadSetting, match="PENSTOCK_BIND_FILE is no setting of Penstock"):
        Settings.from_env({"PENSTOCK_BIND_FILE": "/run/bind"})


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"PENSTOCK_WORKRS": "2"}, "did you mean PENSTOCK_WORKERS?"),
        ({"PENSTOCK_STRICT": "yes"}, "PENSTOCK_STRICT must be true or false, not 'yes'"),
        ({"PENSTOCK_LOG_CALLS": "some"}, "must be none, failed or all, not 'some'"),
        ({"PENSTOCK_WORKERS": "0"}, "must be a whole number from 1 to 1024, not '0'"),
        ({"PENSTOCK_ENVIRONMENT": "Prod"}, "PENSTOCK_ENVIRONMENT is 'Prod'"),
        ({"PENSTOCK_API_KEY_HEADERS": "Cookie"}, "use one such as X-API-Key"),
        ({"PENSTOCK_API_KEY_HEADERS": ","}, "must name at least one header"),
        ({"PENSTOCK_CLIENT_CERT_HEADER": "a b"}, "must be the name of a header"),
        ({"PENSTOCK_TRUSTED_PROXIES": "10.0.0.1/8"}, "must be networks such as 10.0.0.0/8"),
        ({"PENSTOCK_INTERNAL_BIND": "fd://3"}, "PENSTOCK_INTERNAL_BIND must be like"),
        ({"PENSTOCK_INTERNAL_BIND": "[::1]:8000"}, "must have another port than PENSTOCK_BIND"),
        ({"PENSTOCK_DATABASE_URL": "postgresql://a:hush@b:x/c"}, "has an invalid port"),
        ({"PENSTOCK_DATABASE_DIRECT_URL": "sqlite:///a"}, "is for PostgreSQL"),
        ({"PENSTOCK_PIPELINES": "false"}, "nothing would be served"),
        ({"PENSTOCK_DOCS": "sign-in"}, "PENSTOCK_DOCS is sign-in, and the console is off"),
        (
            {"PENSTOCK_CONSOLE_OIDC_ISSUER": "https://id.example"},
            "set PENSTOCK_CONSOLE_URL and PENSTOCK_CONSOLE_OIDC_CLIENT_ID and",
        ),
    ],
)
def test_a_wrong_setting_is_reported_with_its_fix(env: dict[str, str], message: str) -> None:
    with pytest.raises(BadSetting) as raised:
        Settings.from_env(env)

    assert message in str(raised.value)
    assert "hush" not in str(raised.value)
