"""Network settings that cannot work are named, by variable and without what is secret in them."""

import sys
from pathlib import Path

import pytest
from peft_tradeoffs.core import errors
from peft_tradeoffs.core.errors import InputError, SafeStream, without_secrets
from peft_tradeoffs.inputs import network


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    names = (*network.PROXIES, *network.BUNDLES, *network.SECONDS, "HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH")
    for name in (*names, *(name.lower() for name in network.PROXIES)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("ALL_PROXY", "socks5://u:geheim@h:1", ["ALL_PROXY: a SOCKS proxy needs the package socksio"]),
        ("HTTP_PROXY", "socks://u:geheim@h:1", ["HTTP_PROXY: an address of kind 'socks'", "http://host:port"]),
        ("https_proxy", "ftp://u:geheim@h", ["https_proxy: an address of kind 'ftp'"]),
        ("HTTPS_PROXY", "http://u:geheim@h:port", ["HTTPS_PROXY: no address that can be read"]),
        ("SSL_CERT_FILE", "/gone.pem", ["SSL_CERT_FILE: /gone.pem: no such file"]),
        ("REQUESTS_CA_BUNDLE", "{junk}", ["REQUESTS_CA_BUNDLE: ", "holds no certificate"]),
        ("HF_TOKEN", "hf_geheim\u00e4", ["HF_TOKEN: the token has a sign that none has", "xe4"]),
        ("HF_TOKEN", "hf_geheim\nmore", ["HF_TOKEN: the token has a sign", "n')"]),
        ("HF_TOKEN_PATH", "{odd}", ["odd: the token has a sign that none has"]),
        ("HF_ENDPOINT", "hub.example", ["HF_ENDPOINT: an address of kind 'none'", "https://huggingface.co"]),
    ],
)
def test_a_setting_that_cannot_work(monkeypatch, tmp_path, name, value, parts):
    (tmp_path / "junk").write_text("no certificate")
    (tmp_path / "odd").write_text("hf_geheim more")
    monkeypatch.setenv(name, value.format(junk=tmp_path / "junk", odd=tmp_path / "odd"))
    said = network.complaints() or ""
    assert [part for part in parts if part not in said] == [], said
    assert "geheim" not in said


def test_settings_that_can_work(monkeypatch, tmp_path):
    assert network.complaints() is None
    monkeypatch.setenv("HTTP_PROXY", "proxy:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy:3128")
    monkeypatch.setenv("HF_TOKEN", "hf_abc\n")  # huggingface_hub strips it
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))  # a folder of certificates
    assert network.complaints() is None
    network.check_hub_variables()


@pytest.mark.parametrize(("name", "value"), [("HF_ENDPOINT", "http://h:port"), ("HF_HUB_ETAG_TIMEOUT", "soon")])
def test_variables_that_huggingface_hub_fails_to_import_with(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=name):
        network.check_hub_variables()


def test_secrets_of_every_setting_are_left_out(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pr%21vat@proxy:3128")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://a.example/simple https://u:t0ken-of-index@b.example/simple")
    monkeypatch.setenv("https_proxy", "user:pass-of-proxy@proxy:3128")
    monkeypatch.setenv("HF_TOKEN", "hf_short")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    for text, left in {
        "at http://user:pr%21vat@proxy:3128/x": "at http://…@proxy:3128/x",
        "at https://u:with/slash@h/y and http://proxy:8080/user@h": "at https://…@h/y and http://proxy:8080/user@h",
        "at https://u:with@sign@h/y, ssh://u:with/both@signs@h/y": "at https://…@h/y, ssh://…@h/y",
        "at https://u:" + "long" * 300 + "@h/y": "at https://…@h/y",
        "proxy pass-of-proxy": "proxy …",
        "password pr!vat, token hf_short": "password …, token …",
        "pip: t0ken-of-index is wrong": "pip: … is wrong",
        "key 0123456789abcdef": "key …",
        "see https://h/p?token=x&y=z, 'https://h/q?sig=1'": "see https://h/p?… 'https://h/q?…'",
        "of another hf_" + "a" * 34: "of another …",
        f"sha256 {'0' * 64}, two\nlines": f"sha256 {'0' * 64}, two\nlines",
        "the token has no place here": "the token has no place here",
    }.items():
        assert without_secrets(text) == left


def test_what_a_command_writes_is_without_secrets(monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://user:geheim@127.0.0.1:9")
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # put back after the test

    def main() -> None:
        print("warning: http://user:geheim@127.0.0.1:9 is slow", file=sys.stderr)
        raise InputError("geheim is wrong")

    with pytest.raises(SystemExit) as caught:
        errors.run(main)
    assert isinstance(sys.stderr, SafeStream)
    print(caught.value, file=sys.stderr)  # as the interpreter does
    assert capsys.readouterr().err == "warning: http://…@127.0.0.1:9 is slow\nerror: … is wrong\n"


def test_a_path_in_a_telling_variable_is_no_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path))
    assert without_secrets(f"{tmp_path}/x") == f"{tmp_path}/x"
    assert Path(tmp_path).is_dir()
