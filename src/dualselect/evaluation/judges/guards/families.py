"""The known families of guard models, and which of them a model belongs to."""

from dualselect.errors import ConfigError, nearest
from dualselect.evaluation.judges.guards.base import GuardFamily
from dualselect.evaluation.judges.guards.granite_guardian import GraniteGuardian3, GraniteGuardian4, GraniteGuardian33
from dualselect.evaluation.judges.guards.llama_guard import LlamaGuard3, LlamaGuard4
from dualselect.evaluation.judges.guards.qwen3guard import Qwen3Guard
from dualselect.evaluation.judges.guards.shieldgemma import ShieldGemma
from dualselect.evaluation.judges.guards.wildguard import WildGuard

FAMILIES: dict[str, GuardFamily] = {
    family.name: family
    for family in (
        Qwen3Guard(),
        LlamaGuard3(),
        LlamaGuard4(),
        WildGuard(),
        ShieldGemma(),
        GraniteGuardian3(),
        GraniteGuardian33(),
        GraniteGuardian4(),
    )
}


def family_named(name: str) -> GuardFamily:
    """Return the family of that name.

    Raises:
        ConfigError: There is no such family.
    """
    if name not in FAMILIES:
        raise ConfigError(f"judge guard: unknown family '{name}'{nearest(name, FAMILIES)}")
    return FAMILIES[name]


def family_of(model_id: str) -> GuardFamily:
    """Return the family that a model belongs to, by its id.

    Raises:
        ConfigError: The model belongs to no known family.
    """
    for family in FAMILIES.values():
        if family.takes(model_id):
            return family
    raise ConfigError(
        f"judge guard:{model_id}: unknown guard family; name it as guard:FAMILY={model_id}, with a FAMILY of "
        f"{', '.join(FAMILIES)}"
    )
