"""URLs of sites, and that no password in one is ever shown."""

import pathlib
import pickle

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bisync.endpoint import Endpoint, Login, Secret, read_url, shown_url
from bisync.passwords import Kept, open_to_others
from bisync.tls import Tls

READ = [
    ("redis://localhost", Endpoint("localhost")),
    ("redis://localhost/", Endpoint("localhost")),
    ("redis://localhost/0", Endpoint("localhost")),
    ("REDIS://redis_1.internal:1", Endpoint("redis_1.internal", 1)),
    ("redis://[::1]", Endpoint("::1")),
    ("redis://[2001:db8::5]:7001", Endpoint("2001:db8::5", 7001)),
    ("redis://:hush@h:7001", Endpoint("h", 7001, None, Secret("hush"))),
    ("redis://ann:hush@h", Endpoint("h", 6379, "ann", Secret("hush"))),
    ("redis://a%3Ann:h%40%2F%25:%C3%A9@h", Endpoint("h", 6379, "a:nn", Secret("h@/%:é"))),
    ("redis://:a+b%zz@h", Endpoint("h", 6379, None, Secret("a+b%zz"))),
    ("redis://:@h", Endpoint("h")),
    ("redis://@h", Endpoint("h")),
    ("rediss://ann:hush@h:7", Endpoint("h", 7, "ann", Secret("hush"), Tls())),
    ("REDISS://h", Endpoint("h", tls=Tls())),
]


@pytest.mark.parametrize(("url", "endpoint"), READ)
def test_url_is_read(url: str, endpoint: Endpoint) -> None:
    assert read_url(url) == endpoint


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("", 'expected "redis://user'),
        ("127.0.0.1:6379", 'expected "redis://user'),
        ("http://h", 'expected "redis://user'),
        ("redis+sentinel://h", "redis+sentinel:// is not supported yet"),
        ("redis+cluster://h", "redis+cluster:// is not supported yet"),
        ("redis://", "no host"),
        ("redis://:hush@", "no host"),
        ("redis://:6379", "no host"),
        ("redis://ann@h", "a user without a password"),
        ("redis://ann:@h", "a user without a password"),
        ("redis://ann:pa/ss@h", "%2F"),
        ("redis://ann:pa#ss@h", "%23"),
        ("redis://ann:pa@ss@h", "%40"),
        ("redis://ann:pa ss@h", "%20"),
        ("redis://:%ff@h", "not UTF-8"),
        ("redis://h:", "a port from 1 to 65535"),
        ("redis://h:0", "a port from 1 to 65535"),
        ("redis://h:65536", "a port from 1 to 65535"),
        ("redis://h:٣", "a port from 1 to 65535"),
        ("redis://h:six", "a port from 1 to 65535"),
        ("redis://::1", "in brackets"),
        ("redis://[::1", "in brackets"),
        ("redis://[::x]", "in brackets"),
        ("redis://[10.0.0.1]", "in brackets"),
        ("redis://h:1,i:2", "one host:port"),
        ("redis://a b", "host name"),
        ("redis://h\n", "host name"),
        ("redis://h/3", "[objects] databases"),
        ("redis://h/orders", "[objects] databases"),
        ("redis://h?db=3", "no option"),
        ("redis://h/0#x", "no fragment"),
    ],
)
def test_wrong_url_is_refused_with_what_would_be_right(url: str, right: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_url(url)
    assert right in str(caught.value)
    assert "hush" not in str(caught.value)


def test_all_that_is_wrong_with_a_url_is_told_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        read_url("redis://ann:a/b@:x/3?y")
    assert [w in str(caught.value) for w in ("%2F", "no host", "port", "databases", "option")] == [True] * 5


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ann:hush@h:7001/3", "redis://***@h:7001/3"),
        ("redis://:hush@", "redis://***@"),
        ("redis://ann:hu/hush@h", "redis://***@h"),
        ("redis://ann:hu@hush@h:1", "redis://***@h:1"),
        ("redis://ann:hu?hush#@h", "redis://***@h"),
        ("redis://a:b://hush@h", "redis://***@h"),
        ("ann:x://hush@h", "***@h"),
        ("ann:hush@h", "***@h"),
        ("redis:/ann:hush@h", "***@h"),
        ("redis://ann:hush", "redis://ann:***"),
        ("redis://:hush", "redis://:***"),
        ("redis://:123456", "redis://:***"),
        ("redis:hush", "redis:***"),
        ("redis://ann:h/hush", "redis://ann:***/***"),
        ("redis://ann:1/hush", "redis://ann:1/***"),
        ("redis://h:1?password=hush", "redis://h:1?***"),
        ("redis://h:1#hush", "redis://h:1#***"),
        ("redis://[::1]:hush", "redis://[::1]:***"),
        ("redis://[hush", "redis://***"),
        ("127.0.0.1:6379", "127.0.0.1:6379"),
    ],
)
def test_shown_url_hides_all_that_may_be_a_password(url: str, shown: str) -> None:
    assert shown_url(url) == shown


URL_PIECES = st.text(alphabet="ab:/?#@[]% 1é", max_size=6)


@given(URL_PIECES, URL_PIECES, URL_PIECES, st.sampled_from(["redis://", "rediss://", "redis:/", "", "x://"]))
@example("", ":", "", "redis://")
def test_a_password_before_an_at_is_never_told(before: str, after: str, rest: str, scheme: str) -> None:
    url = f"{scheme}user:{before}SECRET{after}@{rest}"
    assert "SECRET" not in shown_url(url)
    try:
        endpoint = read_url(url)
    except ValueError as e:
        assert "SECRET" not in str(e)
    else:
        assert "SECRET" not in repr(endpoint)
        assert endpoint.password is None or "SECRET" in endpoint.password.reveal()


@given(st.text(max_size=20))
def test_any_text_is_an_endpoint_or_a_mistake(text: str) -> None:
    for url in (text, f"redis://{text}"):
        shown_url(url)
        try:
            assert 1 <= read_url(url).port <= 65535
        except ValueError as e:
            assert str(e)


def test_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hush")
    endpoint = Endpoint("h", 1, "ann", secret)
    assert secret.reveal() == "hush"
    assert [str(secret), repr(secret), f"{secret}", "%s" % secret] == ["***"] * 4
    assert "hush" not in repr(endpoint) + str(endpoint) + repr(attrs.asdict(endpoint))
    assert secret == Secret("hush") and secret != Secret("other") and secret != "hush"
    assert len({secret, Secret("hush")}) == 1
    with pytest.raises(TypeError):
        pickle.dumps(endpoint)


@pytest.mark.parametrize(("host", "address"), [("h", "h:7"), ("10.0.0.1", "10.0.0.1:7"), ("::1", "[::1]:7")])
def test_address_is_written_as_in_a_url(host: str, address: str) -> None:
    assert Endpoint(host, 7).address == address


# -- passwords that are kept elsewhere
def test_a_user_without_a_password_is_right_where_the_password_is_elsewhere() -> None:
    assert read_url("redis://ann@h", password_elsewhere=True) == Endpoint("h", user="ann")
    with pytest.raises(ValueError, match="a user without a password"):
        read_url("redis://ann:@h", password_elsewhere=True)


@pytest.mark.parametrize(
    ("user", "text", "login"),
    [
        (None, "hush", Login(None, Secret("hush"))),
        (None, "hush\n", Login(None, Secret("hush"))),
        (None, "hush\r\n", Login(None, Secret("hush"))),
        (None, " hu%20sh ", Login(None, Secret(" hu%20sh "))),
        (None, "ann:hush", Login("ann", Secret("hush"))),
        (None, "ann:hu:sh\n", Login("ann", Secret("hu:sh"))),
        (None, ":hu:sh", Login(None, Secret("hu:sh"))),
        ("ann", "hush", Login("ann", Secret("hush"))),
        ("ann", "hu:sh", Login("ann", Secret("hu:sh"))),
    ],
)
def test_login_is_read_from_a_variable_and_from_a_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, user: str | None, text: str, login: Login
) -> None:
    monkeypatch.setenv("EAST", text)
    file = tmp_path / "east"
    file.write_text(text, newline="")
    for kept in (Kept("password_env", variable="EAST"), Kept("password_file", path=file)):
        endpoint = Endpoint("h", user=user, kept=kept)
        assert endpoint.has_password and endpoint.secrets == []
        assert endpoint.login() == login
        assert endpoint.account == (login.user or "default")
        assert login.password is not None and endpoint.secrets == [login.password.reveal()]
        assert "sh" not in repr(endpoint) and "sh" not in str(login)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"hush\nhush", "more than one line"),
        (b"hush\n\n", "more than one line"),
        (b"hu\0sh", "more than one line"),
        (b"hush\xff", "not UTF-8"),
        (b"hush" * 5000, "more than 16,384 bytes"),
        (b"ann:", "no password after the colon"),
        (None, "there is no such file"),
    ],
)
def test_what_is_no_password_is_told_and_not_shown(tmp_path: pathlib.Path, data: bytes | None, told: str) -> None:
    file = tmp_path / "hush"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ValueError, match=told) as caught:
        Endpoint("h", kept=Kept("password_file", path=file)).login()
    assert "hush" not in str(caught.value)


def test_a_variable_that_is_not_set_is_told_without_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("hush", raising=False)
    with pytest.raises(ValueError, match="no such variable") as caught:
        Endpoint("h", kept=Kept("password_env", variable="hush")).login()
    assert "hush" not in str(caught.value)


def test_a_password_that_was_changed_is_read_again_and_the_old_one_stays_hidden(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "east"
    endpoint = Endpoint("h", kept=Kept("password_file", path=file))
    for n in range(9):
        file.write_text(f"ann{n}:hush{n}")
        assert endpoint.login() == Login(f"ann{n}", Secret(f"hush{n}"))
        assert endpoint.account == f"ann{n}"
    assert sorted(endpoint.secrets) == ["hush5", "hush6", "hush7", "hush8"]
    file.write_text("ann6:hush6")
    endpoint.login()
    assert endpoint.account == "ann6"


@pytest.mark.parametrize(
    ("mode", "told"), [(0o600, ""), (0o640, ""), (0o644, "0644"), (0o660, "0660"), (0o601, "0601")]
)
def test_rights_of_others_on_a_file_are_noticed(tmp_path: pathlib.Path, mode: int, told: str) -> None:
    file = tmp_path / "east"
    file.touch()
    file.chmod(mode)
    assert open_to_others(file) == told
    assert open_to_others(tmp_path / "nothing") == ""
