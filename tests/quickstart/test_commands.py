from contextlib import suppress
from dataclasses import fields

import pytest

from dualselect.cli import main
from dualselect.quickstart.settings import AlignSettings, QuickstartSettings
from dualselect.settings.parser import CommandParser, settings_from


def parsed(settings, *flags):
    parser = CommandParser("any")
    parser.add_settings(settings, "settings")
    return settings_from(settings, parser.parse(flags))


@pytest.mark.parametrize("settings", [AlignSettings, QuickstartSettings])
def test_defaults_of_the_flags_are_those_of_the_settings(settings):
    assert parsed(settings) == settings()


@pytest.mark.parametrize("settings", [AlignSettings, QuickstartSettings])
def test_every_setting_is_a_flag(settings):
    others = {option.name: option.default + type(option.default)(1) for option in fields(settings)}
    flags = [word for name, value in others.items() for word in (f"--{name}", str(value))]
    assert parsed(settings, *flags) == settings(**others)


@pytest.mark.parametrize(("command", "settings"), [("align", AlignSettings), ("quickstart", QuickstartSettings)])
def test_help_explains_every_flag(command, settings, capsys):
    with suppress(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for option in fields(settings):
        _, found, rest = shown.partition(f" --{option.name} ")
        explained = rest.split(" --")[0]
        assert found, option.name
        assert " ".join(option.metadata["help"].split()) in explained, option.name
        if option.default != "":
            assert f"(default: {option.default})" in explained, option.name


def test_align_does_not_overwrite(tmp_path, capsys):
    assert main(["align", "--output_dir", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
