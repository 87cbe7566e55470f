"""A changed file is noticed, once, when it has come to rest; what changed is known by name."""

from __future__ import annotations

import os

import pytest

from fastgw.config import ConfigError, Settings, Watcher, carry_over


def looks(watcher, most=5):
    """Look until the change is told; give how many looks it took."""
    for count in range(1, most + 1):
        if watcher.changed():
            return count
    return None


def test_untouched_files(config):
    """Nothing changed: nothing is told."""
    assert looks(Watcher(config.load("server: {}").stamps)) is None


def test_written_file(config):
    """A written file is told once, at the second look that finds it the same."""
    watcher = Watcher(config.load("server: {port: 1}").stamps)
    config.write("server: {port: 22}")
    assert looks(watcher) == 2
    assert looks(watcher) is None


def test_file_still_being_written(config):
    """A file that grows between looks is left alone until it rests."""
    watcher = Watcher(config.load("server: {}").stamps)
    path = config.write("server: {port: 1}\n")
    for _ in range(3):
        assert not watcher.changed()
        with path.open("a") as file:
            file.write("# more\n")
    assert looks(watcher) == 2


def test_replaced_by_rename_with_the_same_size_and_time(config):
    """An editor that renames a new file into place is seen by the inode."""
    loaded = config.load("server: {port: 1}")
    path = loaded.path
    status = path.stat()
    other = config.write("server: {port: 2}", "new")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)
    assert looks(Watcher(loaded.stamps)) == 2


def test_symbolic_link_turned(config):
    """A mounted secret is swapped by turning a link: the target counts."""
    config.write("0123456789abcdef-1", "one")
    config.write("0123456789abcdef-2", "two")
    link = config.folder / "secret"
    link.symlink_to("one")
    watcher = Watcher(config.load("security: {master_key: {file: secret}}").stamps)
    link.unlink()
    link.symlink_to("two")
    assert looks(watcher) == 2


@pytest.mark.parametrize("name", ["fastgw.yaml", "fastgw.toml", ".env"])
def test_file_that_appears(config, name):
    """A file that was not there at the start is noticed when it comes."""
    watcher = Watcher(config.load().stamps)
    config.write("", name)
    assert looks(watcher) == 2


def test_file_that_disappears_and_returns(config):
    """A file taken away is a change, and so is its return."""
    loaded = config.load("server: {}")
    watcher = Watcher(loaded.stamps)
    loaded.path.unlink()
    assert looks(watcher) == 2
    config.write("server: {}")
    assert looks(watcher) == 2


def test_remedy_of_a_failed_load_is_watched(config):
    """After a failed reload the file that was missing is watched: its coming is the remedy."""
    loaded = config.load("server: {}")
    watcher = Watcher(loaded.stamps)
    config.write("security: {master_key: {file: s}}")
    assert looks(watcher) == 2
    with pytest.raises(ConfigError) as caught:
        loaded.again()
    watcher.follow(caught.value.stamps)
    assert looks(watcher) is None
    config.write("0123456789abcdef", "s")
    assert looks(watcher) == 2


# -- what changed -------------------------------------------------------------------------------


def test_what_can_change_and_what_cannot(config):
    """Providers, models and limits change at once; sockets and stores wait, and are named."""
    old = config.load(
        "server: {port: 1, workers: 2}\nproviders: [{name: a, type: openai}]"
    ).settings
    text = """\
server: {port: 2, workers: 2}
database: {url: "sqlite:///other"}
keys: {max_stale_s: 1}
providers: [{name: b, type: openai}, {name: a, type: openai}]
models: [{name: m, deployments: [{provider: b, model: x}]}]
"""
    change = carry_over(old, config.load(text).settings)
    assert change.restart == ("server.port", "database.url")
    assert set(change.reloaded) == {"keys.max_stale_s", "providers", "models"}
    assert change.settings.server == old.server
    assert change.settings.database == old.database
    assert [each.name for each in change.settings.providers] == ["b", "a"]
    assert change.settings.models[0].name == "m"


def test_nothing_changed():
    """Equal settings differ in nothing."""
    assert carry_over(Settings(), Settings()) == (Settings(), (), ())


def test_rotated_credential_is_a_change(config):
    """A new secret under the same name counts as a change of its list."""
    text = "providers: [{name: a, type: openai, api_key: %s}]"
    old, new = (config.load(text % key).settings for key in ("sk-1", "sk-2"))
    assert carry_over(old, new).reloaded == ("providers",)
