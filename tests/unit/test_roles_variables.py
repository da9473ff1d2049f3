"""Defaults, argument specs and the documents made from them agree, in every role."""

from pathlib import Path

import pytest
import yaml
from scripts import load

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parent.parent.name for path in ROOT.glob("roles/*/meta/argument_specs.yml"))


def generator():
    return load("docs/generate_variables.py")


def entry_points(role):
    path = ROOT / "roles" / role / "meta" / "argument_specs.yml"
    return yaml.safe_load(path.read_text())["argument_specs"]


def defaults_text(role):
    path = ROOT / "roles" / role / "defaults" / "main.yml"
    return path.read_text() if path.exists() else ""


def folded(value):
    """White space in a template has no meaning; a spec may break its lines elsewhere."""
    return " ".join(value.split()) if isinstance(value, str) else value


def test_every_role_has_argument_specs():
    assert {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()} == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_agree(role):
    defaults = yaml.safe_load(defaults_text(role)) or {}
    options = entry_points(role)["main"]["options"]
    assert set(defaults) == {name for name, option in options.items() if not option.get("required")}
    assert {name: folded(value) for name, value in defaults.items()} == {
        name: folded(option.get("default"))
        for name, option in options.items()
        if not option.get("required")
    }


@pytest.mark.parametrize("role", ROLES)
def test_public_variables_carry_the_name_of_the_role(role):
    names = entry_points(role)["main"]["options"]
    assert [name for name in names if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_every_default_has_a_comment_directly_above(role):
    lines = ["", *defaults_text(role).splitlines()]
    bare = [
        line.split(":")[0]
        for above, line in zip(lines, lines[1:])
        if line[:1].isalpha() and not above.startswith("#")
    ]
    assert bare == []


@pytest.mark.parametrize("role", ROLES)
def test_preflight_takes_what_main_takes(role):
    points = entry_points(role)
    assert points["preflight"]["options"] == points["main"]["options"]


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_described_and_typed(role):
    def bare(options, path=""):
        for name, option in options.items():
            if not option.get("description") or not option.get("type"):
                yield path + name
            yield from bare(option.get("options", {}), f"{path}{name}.")

    assert list(bare(entry_points(role)["main"]["options"])) == []


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_readme_with_the_table(role):
    readme = (ROOT / "roles" / role / "README.md").read_text()
    assert generator().BEGIN in readme
    assert generator().END in readme


def test_generated_documents_are_current():
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generator().generate(ROOT).items()
        if not path.exists() or path.read_text() != text
    ]
    assert stale == [], "run docs/generate_variables.py"


def test_a_nested_option_is_indented_below_its_parent():
    nested = {"name": {"type": "str", "required": True}}
    options = {"a_list": {"type": "list", "elements": "dict", "default": [], "options": nested}}
    table = generator().table(options)
    assert table.splitlines()[2:] == [
        "| `a_list` | list of dict | `[]` |  |",
        "| &nbsp;&nbsp;&nbsp;&nbsp;↳ `name` | str | required |  |",
    ]


def test_text_outside_the_markers_stays():
    module = generator()
    readme = f"before\n{module.BEGIN}\nold\n{module.END}\nafter\n"
    expected = f"before\n{module.BEGIN}\nnew\n{module.END}\nafter\n"
    assert module.with_block(readme, "new\n") == expected
    assert module.with_block("text\n", "new\n").startswith("text\n\n## Variables\n\n")
