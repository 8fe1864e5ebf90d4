"""The control plane against real servers, and against ports that answer something else."""

import contextlib
import pathlib
import socket
import threading
from collections.abc import Iterator

import pytest

from bisync.config import Site, load_job
from bisync.errors import SiteError
from bisync.runtime.control import CommandRefused, Control, PasswordRefused, Refusal
from bisync.testing.servers import LocalServer, free_port, local_servers

SECRET = "open-sesame"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_servers(tmp_path_factory.mktemp("control"), "one") as [one]:
        yield one


@pytest.fixture(autouse=True)
def fresh(server: LocalServer) -> None:
    with server.client() as client:
        client.flushall()
        client.config_set("requirepass", "")
        client.execute_command("ACL", "DELUSER", "guest")


def site(folder: pathlib.Path, port: int, account: str = "") -> Site:
    file = folder / "job.toml"
    other = free_port()
    file.write_text(f"""name = "control"
topology = "one-way"
[sites.east]
url = "redis://{account}127.0.0.1:{port}"
[sites.west]
url = "redis://127.0.0.1:{other}"
""")
    return load_job(file).source


def error(where: Site, *, timeout_s: float = 2.0) -> SiteError:
    """The error that a first question brings; its text must never hold the password."""
    with Control(where, timeout_s=timeout_s) as control, pytest.raises(SiteError) as caught:
        control.info("server")
    shown = f"{caught.value} {caught.value!r} {caught.value.__cause__} {control!r}"
    assert SECRET not in shown
    assert str(caught.value).startswith("east: ")
    assert caught.value.hint
    return caught.value


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port that says `answer` to whoever comes, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def test_info_settings_and_role(server: LocalServer, tmp_path: pathlib.Path) -> None:
    with server.client() as client:
        version = client.info("server")["redis_version"]
    with Control(site(tmp_path, server.port)) as control:
        assert control.info("server")["redis_version"] == version
        assert control.config_get("maxmemory-policy") == "noeviction"
        assert control.config_get("no-such-setting") is None
        assert control.role() == "master"


def test_replies_come_in_order_and_each_batch_runs_in_its_database(server: LocalServer, tmp_path: pathlib.Path) -> None:
    with Control(site(tmp_path, server.port)) as control:
        replies = control.batch([("SET", "k", "3"), ("HGET", "k", "f"), ("GET", b"k")], db=3)
        assert replies == [b"OK", Refusal("WRONGTYPE", "Operation against a key holding the wrong kind of value"), b"3"]
        assert control.call("GET", "k") is None
        assert control.databases() == {3: 1}
        assert control.client(3).get("k") == b"3"


def test_the_toll_tells_how_much_went_over_the_network(server: LocalServer, tmp_path: pathlib.Path) -> None:
    paid: list[tuple[int, int]] = []
    with Control(site(tmp_path, server.port), toll=lambda *told: paid.append(told)) as control, server.client() as c:
        c.rpush("list", "x" * 1_000, "y" * 2_000)
        control.ask("PING")
        before = c.info("stats")
        control.batch([("LRANGE", "list", 0, -1), ("SET", "k", b"z" * 5_000), ("GET", "k"), ("LLEN", "k")], db=0)
        after = c.info("stats")
    went = sum(after[name] - before[name] for name in ("total_net_input_bytes", "total_net_output_bytes"))
    beside = len(str(before)) * 2  # the questions of this test
    assert paid[0][0] == 1 and paid[0][1] < 100
    assert paid[1][0] == 4 and 13_000 < paid[1][1] < 13_300
    assert paid[1][1] <= went < paid[1][1] + 2 * beside


def test_a_database_that_does_not_exist_runs_nothing(server: LocalServer, tmp_path: pathlib.Path) -> None:
    with Control(site(tmp_path, server.port)) as control:
        control.call("SET", "k", "0")
        with pytest.raises(CommandRefused, match="SELECT was refused .*out of range"):
            control.batch([("SET", "k", "lost")], db=99)
        assert control.call("GET", "k") == b"0"


def test_a_lost_connection_is_opened_again_in_the_right_database(server: LocalServer, tmp_path: pathlib.Path) -> None:
    with Control(site(tmp_path, server.port)) as control:
        control.call("SET", "k", "5", db=5)
        with server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(SiteError, match="closed the connection") as caught:
            control.call("GET", "k", db=5)
        assert caught.value.heals
        assert control.call("GET", "k", db=5) == b"5"


def test_a_wrong_password_is_refused_without_showing_it(server: LocalServer, tmp_path: pathlib.Path) -> None:
    with server.client() as client:
        client.config_set("requirepass", "another")
        caught = error(site(tmp_path, server.port, f":{SECRET}@"))
        client.config_set("requirepass", "")
    assert isinstance(caught, PasswordRefused) and not caught.heals
    assert "refused the password" in caught.what


def test_a_missing_password_says_where_to_put_it(server: LocalServer, tmp_path: pathlib.Path) -> None:
    with server.client() as client:
        client.config_set("requirepass", SECRET)
        caught = error(site(tmp_path, server.port))
        client.config_set("requirepass", "")
    assert isinstance(caught, PasswordRefused)
    assert "redis://user:password@" in caught.hint


def test_a_password_where_none_is_set(server: LocalServer, tmp_path: pathlib.Path) -> None:
    caught = error(site(tmp_path, server.port, f":{SECRET}@"))
    assert isinstance(caught, PasswordRefused)
    assert "has none set" in caught.what and "requirepass" in caught.hint


def test_a_lacking_right_names_the_command_and_the_rule(server: LocalServer, tmp_path: pathlib.Path) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", f">{SECRET}", "~order:*", "+get", "+select", "+dbsize")
    with Control(site(tmp_path, server.port, f"guest:{SECRET}@")) as control:
        with pytest.raises(CommandRefused, match="may not use INFO here") as caught:
            control.info("server")
        assert "ACL SETUSER guest +info" in caught.value.hint and not caught.value.heals
        with pytest.raises(CommandRefused) as caught:
            control.call("GET", "bisync:orders:tag:forward")
        assert "ACL SETUSER guest ~bisync:*" in caught.value.hint
        assert control.config_get("databases") is None
        with server.client(7) as client:
            client.set("k", 1)
        assert control.databases() == {7: 1}, "found one by one where INFO is not allowed"


def test_a_closed_port_may_open_later(tmp_path: pathlib.Path) -> None:
    caught = error(site(tmp_path, free_port()))
    assert "refused the connection" in caught.what and caught.heals


def test_a_host_without_an_address(tmp_path: pathlib.Path) -> None:
    where = site(tmp_path, 7001)
    file = tmp_path / "job.toml"
    file.write_text(file.read_text().replace("127.0.0.1:7001", "no-such-host.invalid:7001"))
    assert where.endpoint.host == "127.0.0.1"
    assert "'no-such-host.invalid' has no address" in error(load_job(file).source).what


def test_a_port_that_does_not_answer(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        caught = error(site(tmp_path, silent.getsockname()[1]), timeout_s=0.05)
    assert "did not answer in time" in caught.what and caught.heals


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02"]
)
@pytest.mark.parametrize("account", ["", f"user:{SECRET}@"])
def test_a_port_that_is_not_redis(tmp_path: pathlib.Path, answer: bytes, account: str) -> None:
    with answering(answer) as port:
        caught = error(site(tmp_path, port, account))
    assert "answers, but it is not Redis" in caught.what
    assert not caught.heals and "port" in caught.hint


def test_a_port_that_hangs_up(tmp_path: pathlib.Path) -> None:
    with answering(b"") as port:
        caught = error(site(tmp_path, port))
    assert "without an answer" in caught.what and "TLS" in caught.hint


def test_a_loading_server_heals(tmp_path: pathlib.Path) -> None:
    with answering(b"-LOADING Redis is loading the dataset in memory\r\n") as port:
        caught = error(site(tmp_path, port))
    assert "still loading" in caught.what and caught.heals


def test_a_server_that_repeats_what_it_got_does_not_reveal_the_password(tmp_path: pathlib.Path) -> None:
    renamed = f"-ERR unknown command 'AUTH', with args beginning with: 'user' '{SECRET}' \r\n".encode()
    with answering(renamed) as port:
        caught = error(site(tmp_path, port, f"user:{SECRET}@"))
    assert "unknown command 'AUTH'" in str(caught) and "beginning with" not in str(caught)
    with answering(f"-ERR what is {SECRET}?\r\n".encode()) as port:
        caught = error(site(tmp_path, port, f"user:{SECRET}@"))
    assert "what is ***?" in str(caught)
