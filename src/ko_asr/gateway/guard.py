"""The order in which a request is checked: where it comes from, then whose it is."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from ko_asr.gateway.access.accounts import Accounts
from ko_asr.gateway.access.admission import Admission
from ko_asr.gateway.access.browsers import OwnPages, SafeHeaders
from ko_asr.gateway.settings.access import AccessSettings

_METHODS = ("GET", "POST", "DELETE")
_EXPOSED = ("x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "www-authenticate")


def guarded(app: ASGIApp, access: AccessSettings, accounts: Accounts | None) -> ASGIApp:
    """``app`` behind the checks of ``access``; everybody is let in where ``accounts`` is None."""
    app = Admission(app, accounts, access.metrics_from, access.proxies is not None)
    if access.origins:
        # Any header: OpenAI's SDK sends a dozen of its own, and the page is one that was allowed.
        app = CORSMiddleware(
            app, access.origins, _METHODS, ["*"], expose_headers=_EXPOSED, allow_private_network=True
        )
    if not access.keys:
        app = OwnPages(app, access.origins, access.hosts)
    return SafeHeaders(app)
