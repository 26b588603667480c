"""A visitor's way through the whole shop, page and API.

`BASE_URL=http://localhost:8080 python3 tests/journey.py`
"""

import os
import re
import sys

from shop import buy_tea, check, run

ASSET = re.compile(r'(?:src|href)="(/assets/[^"]+)"')


def journey(visitor):
    page = visitor.get("/").expect(200)
    text = page.body.decode("utf-8", "replace")
    check("the shop has a page", "<title>Teahouse</title>" in text, text[:200])
    assets = ASSET.findall(text)
    kinds = {asset.rsplit(".", 1)[-1] for asset in assets}
    check("the page names its script and its style", {"js", "css"} <= kinds, f"It names {assets}.")
    for asset in assets:
        answer = visitor.get(asset).expect(200)
        # A page in place of an asset is what a visitor gets when page and assets are of two releases.
        check(f"{asset} is there", b"<!doctype" not in answer.body[:100].lower(), "It is a page.")

    version = visitor.get("/api/version").expect(200).json()
    check(f"page and API answer together: {version['edition']}", bool(version["edition"]))
    check("the page's list has teas", len(visitor.get("/api/teas").expect(200).json()) >= 12)
    buy_tea(visitor)


if __name__ == "__main__":
    sys.exit(run(journey, os.environ.get("BASE_URL", "http://localhost:8080")))
