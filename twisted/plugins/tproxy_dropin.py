"""Makes `twistd tproxy` and `twist tproxy`."""

from twisted.application.service import ServiceMaker

tproxy = ServiceMaker(
    "tproxy",
    "tproxy.tap",
    "A transparent proxy for mail systems: plain TCP ports that are logged-in mail sessions.",
    "tproxy",
)
