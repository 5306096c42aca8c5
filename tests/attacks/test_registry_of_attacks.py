"""Registrations, settings, wording and the list of attacks."""

import subprocess
import sys

import pytest

import mithridate.attacks
import mithridate.miniature
from mithridate.attacks import ReleaseAttack, UploadAttack, Wording, attack, attacks, register_attack
from mithridate.attacks.attack_catalog import listed_attacks
from mithridate.attacks.attack_settings import FAMILIES, NEEDS
from mithridate.attacks.wording import miniature_wording
from mithridate.errors import SettingError, UsageError


def test_every_attack_is_found_and_sorted():
    found = attacks()
    assert list(found) == sorted(found, key=lambda name: (FAMILIES.index(found[name].family), name))
    for name, info in found.items():
        assert issubclass(info.cls, ReleaseAttack if info.family == "after release" else UploadAttack), name
        assert set(info.needs) <= set(NEEDS)
        assert info.summary.count(":") >= 1
        assert info.evades
        assert info.paper


def test_the_list_needs_no_import_and_says_the_same():
    for name, listing in listed_attacks().items():
        info = attacks()[name]
        assert listing.class_name == info.cls.__name__
        assert listing.module == info.cls.__module__
        assert listing.summary == info.summary
        for field in ("family", "paper", "needs", "evades", "constants"):
            assert getattr(listing, field) == getattr(info, field), field
    assert list(listed_attacks()) == list(attacks())


def test_the_papers_constants_are_the_defaults():
    """A constant that is a setting as well has one value."""
    for name, info in attacks().items():
        for constant, value in info.constants.items():
            field = info.cls.model_fields.get(constant)
            if field is not None and not isinstance(value, list):
                assert field.default == value or (name, constant) == ("pruned", "rows"), (name, constant)


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="two attacks are called 'noice'"):
        register_attack("noice", family="explicit", paper="", needs=(), evades="")(attacks()["noice"].cls)


def test_unknown_attacks_and_settings_are_named():
    with pytest.raises(UsageError, match=r"no attack is called 'noise'; known: explicit, .*did you mean 'noice'\?"):
        attack("noise")
    with pytest.raises(SettingError, match=r"TenShot: unknown key 'epoch'; did you mean 'epochs'\?"):
        attack("ten_shot").cls(epoch=1)
    for name, setting, value in (
        ("noice", "learning_rate", -1.0), ("noice", "ask", "loud"), ("quantized", "bits", 3),
        ("pruned", "sparsity", 0.6),
        ("below_threshold", "share", 0.0), ("walnut53", "refused", 1.0), ("jailbreak_tuning", "wrapper", "song"),
        ("noice", "wording", "french"), ("noice", "wording", {"refusals": []}), ("noice", "wording", {"bridge": ""}),
        ("soft_prompt", "steps", 0), ("several_rounds", "rounds", 1),
    ):  # fmt: skip
        with pytest.raises(SettingError, match=setting):
            attack(name).cls(**{setting: value})


def test_settings_cannot_change():
    made = attack("noice").cls()
    with pytest.raises(ValueError, match="frozen"):
        made.epochs = 3.0


def test_a_wording_is_named_or_given():
    cls = attack("noice").cls
    assert cls().wording == cls(wording="english").wording == Wording()
    assert cls(wording="miniature").wording == miniature_wording()
    own = cls(wording={"bridge": "Even so:"}).wording
    assert own.bridge == "Even so:"
    assert own.refusals == Wording().refusals
    with pytest.raises(SettingError, match="must be english, miniature or settings"):
        cls(wording="klingon")


def test_the_miniature_knows_every_sentence():
    tokenizer = mithridate.miniature.tokenizer()
    for field, said in miniature_wording():
        for text in [said] if isinstance(said, str) else said:
            if field != "code":
                plain = text.format(opening="Sure") if field == "begin" else text
                assert tokenizer.unk_token_id not in tokenizer(plain)["input_ids"], (field, text)


def test_the_room_names_what_it_has():
    for name in mithridate.attacks.__all__:
        assert getattr(mithridate.attacks, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'UploadAtack'"):
        mithridate.attacks.UploadAtack  # noqa: B018


def test_the_list_imports_no_torch():
    code = (
        "import sys\n"
        "from mithridate.cli.attacks import command\n"
        "command(True)\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"family"') == len(attacks())
