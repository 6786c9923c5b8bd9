"""docs/dependencies.md is true to the pins and to what is installed."""

import sys

import pytest

from tests.support.licences import DOCUMENT, ROW, UNKNOWN, licence, pinned, renewed


def test_the_table_has_every_pinned_package_at_its_version():
    rows = ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert {name: version for name, version, _ in rows} == pinned()
    assert len(rows) > 100 and all(stated != UNKNOWN for _, _, stated in rows)


@pytest.mark.skipif(licence("torch", pinned()["torch"]) is None, reason="this is not the pinned environment")
def test_the_licences_are_those_of_the_installed_packages():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert renewed(text) == text, "run: python -m tests.support.licences"
    missing = [name for name, version in pinned().items() if licence(name, version) is None]
    assert len(missing) < 10 or sys.version_info[:2] != (3, 11)  # those of Python 3.12 alone


def test_no_licence_reaches_beyond_its_own_package():
    for name, _, stated in ROW.findall(DOCUMENT.read_text(encoding="utf-8")):
        assert "GPL" not in stated and "Commons Clause" not in stated, name
