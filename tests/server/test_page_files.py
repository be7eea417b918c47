"""The files of the page: served with a strict policy, and complete."""

from __future__ import annotations

import re

import pytest

from server import needed as needed
from simplellm.server.page_files import FOLDER

MODULES = sorted(path.name for path in FOLDER.glob("*.js"))
ACTIVE_HTML = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b")


def test_the_page_and_its_files_have_a_policy_without_inline_code_or_other_hosts(live):
    for path in "/", "/page/main.js", "/page/style.css":
        answer = live.get(path)
        assert answer.status == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert live.get("/").headers["content-type"].startswith("text/html")
    assert live.get("/page/main.js").headers["content-type"].startswith("text/javascript")


def test_the_page_has_no_inline_code_and_no_address_of_another_host():
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=", html)
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", text), path.name


@pytest.mark.parametrize("name", MODULES)
def test_a_module_makes_no_html_of_text_and_imports_only_modules_that_exist(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert not ACTIVE_HTML.search(text)
    assert set(re.findall(r'from "\./([\w.]+)"', text)) <= set(MODULES)
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith("/**")


def test_nothing_outside_of_the_folder_is_served(live):
    for path in "/page/../insight.py", "/page/%2e%2e/insight.py", "/page//etc/passwd", "/page/":
        assert live.get(path).status == 404
