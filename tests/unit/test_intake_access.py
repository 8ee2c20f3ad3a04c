"""Who may write through the intake, and whose address is believed."""

import pytest

from forwarder.intake.access import UNIX, Access

PAGE = "https://www.example.com"
CLOSED = Access.by([], [], [])
OPEN = Access.by([PAGE], ["track.example.com", "::2"], [])


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8088", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8088", "localhost:"]
)
def test_this_hosts_own_names_are_served(host):
    """With any port, because the intake may stand behind another."""
    assert CLOSED.fault({"host": host}) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com",
        "127.0.0.1.evil.com",
        "localhost.evil.com:8088",
        "",
        "10.0.0.1",
        "[::2]",
        "x@localhost",
    ],
)
def test_another_host_is_refused_since_a_page_may_have_pointed_it_here(host):
    """Each name that is not configured is refused."""
    assert "intake.hosts" in CLOSED.fault({"host": host})


def test_configured_names_are_served():
    """Names and addresses, with and without port."""
    for host in ("Track.example.com", "track.example.com:443", "[::2]:80", "localhost"):
        assert OPEN.fault({"host": host}) == ""


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": PAGE},
        {"origin": "null"},
        {"origin": "http://localhost"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "cross-site", "referer": f"{PAGE}/a"},
        {"referer": f"{PAGE}/a"},
    ],
)
def test_no_page_may_write(headers):
    """Forms, images, scripts and beacons of web pages all have one of these headers."""
    assert "intake.origins" in CLOSED.fault({"host": "localhost", **headers})


def test_what_is_no_page_may_write():
    """SDKs send neither; a person who types an address sends none for a site."""
    for headers in ({}, {"sec-fetch-site": "none"}):
        assert CLOSED.fault({"host": "localhost", **headers}) == ""
        assert CLOSED.shared(headers) == ()


def test_named_pages_may_write_and_no_others():
    """By their origin, which browsers send with what scripts send; by the referrer of images."""
    for headers in (
        {"origin": PAGE, "sec-fetch-site": "cross-site"},
        {"origin": PAGE.upper()},
        {"sec-fetch-site": "cross-site", "referer": f"{PAGE}/a?b=https://evil.example.com/"},
    ):
        assert OPEN.fault(headers) == ""
    for headers in (
        {"origin": "https://evil.example.com", "referer": f"{PAGE}/"},
        {"origin": f"{PAGE}.evil.com"},
        {"origin": PAGE.replace("https", "http")},
        {"sec-fetch-site": "cross-site", "referer": "https://evil.example.com/https://www.example.com"},
        {"sec-fetch-site": "cross-site", "referer": "www.example.com"},
        {"sec-fetch-site": "cross-site"},
    ):
        assert "intake.origins" in OPEN.fault(headers)


def test_only_a_named_page_may_read_the_answer():
    """It gets its very origin back, since with credentials a star will not do."""
    assert dict(OPEN.shared({"origin": PAGE})) == {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": PAGE,
        "Access-Control-Allow-Credentials": "true",
    }
    assert dict(OPEN.shared({"origin": "https://evil.example.com"})) == {"Vary": "Origin"}
    assert CLOSED.shared({"origin": PAGE}) == ()


# Places


PROXIED = Access.by([], [], ["10.0.0.0/8", "unix:", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("8.8.8.8", None, "8.8.8.8"),
        ("8.8.8.8", "1.1.1.1", "8.8.8.8"),
        ("10.1.2.3", "1.1.1.1", "1.1.1.1"),
        ("::ffff:10.1.2.3", "1.1.1.1", "1.1.1.1"),
        ("10.1.2.3", "9.9.9.9, 1.1.1.1", "1.1.1.1"),
        ("10.1.2.3", "9.9.9.9, 1.1.1.1 , 10.9.9.9", "1.1.1.1"),
        ("10.1.2.3", "2606:4700::1111", "2606:4700::1111"),
        ("10.1.2.3", "::ffff:1.1.1.1", "1.1.1.1"),
        ("10.1.2.3", "192.168.0.7", ""),
        ("10.1.2.3", "1.1.1.1, garbage", ""),
        ("10.1.2.3", "", ""),
        ("10.1.2.3", None, ""),
        (UNIX, "1.1.1.1", "1.1.1.1"),
        (UNIX, None, ""),
        ("127.0.0.1", "1.1.1.1", ""),
        ("192.168.0.7", None, ""),
    ],
)
def test_the_clients_address_is_the_last_that_no_trusted_proxy_has(peer, forwarded, address):
    """And only if it is a public one; what untrusted peers say of others counts nothing."""
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert PROXIED.client(peer, headers) == address


def test_whoever_reaches_the_socket_is_only_believed_if_the_settings_say_so():
    """The Unix socket is no proxy by itself."""
    assert CLOSED.client(UNIX, {"x-forwarded-for": "1.1.1.1"}) == ""
