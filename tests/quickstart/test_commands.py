import argparse

import pytest

from dualselect.cli import align as align_command
from dualselect.cli import quickstart as quickstart_command
from dualselect.errors import ConfigError
from dualselect.quickstart.settings import AlignSettings, QuickstartSettings
from dualselect.settings.flags import settings_from


@pytest.fixture
def parser():
    made = argparse.ArgumentParser()
    subparsers = made.add_subparsers()
    align_command.add_parser(subparsers)
    quickstart_command.add_parser(subparsers)
    return made


@pytest.mark.parametrize(("command", "settings"), [("align", AlignSettings), ("quickstart", QuickstartSettings)])
def test_defaults_of_the_flags_are_those_of_the_settings(parser, command, settings):
    assert settings_from(parser.parse_args([command]), settings) == settings()


def test_every_setting_is_a_flag(parser):
    args = parser.parse_args(["quickstart", "--seed", "3", "--rho", "0.5", "--output_dir", "x"])
    assert settings_from(args, QuickstartSettings) == QuickstartSettings(seed=3, rho=0.5, output_dir="x")


@pytest.mark.parametrize("command", ["align", "quickstart"])
def test_help_explains_every_flag(parser, command, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args([command, "--help"])
    assert "(default: 0)" in capsys.readouterr().out


def test_align_does_not_overwrite(parser, tmp_path):
    args = parser.parse_args(["align", "--output_dir", str(tmp_path)])
    with pytest.raises(ConfigError, match="exists already"):
        args.run(args)
