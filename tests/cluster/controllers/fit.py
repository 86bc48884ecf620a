"""Which node a pod fits on, and why not on the others. All of it pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from tests.cluster.client import Object

Amounts = Counter[str]
"""Amounts of resources in thousandths: cores, bytes, devices, and `pods`."""

SUFFIXES = (
    {"": Fraction(1), "m": Fraction(1, 1000)}
    | {letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", 1)}
    | {f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)}
)


@dataclass
class Place:
    """A node, and what the pods on it have taken."""

    node: Object
    used: Amounts = field(default_factory=Counter)
    owners: Counter[str] = field(default_factory=Counter)
    """How many pods of each Job (by uid) are here."""

    @property
    def name(self) -> str:
        return str(self.node["metadata"]["name"])

    def take(self, pod: Object) -> None:
        """Put a pod here."""
        self.used.update(requests(pod))
        self.owners.update(_controllers(pod))


def choose(pod: Object, places: Iterable[Place]) -> tuple[Place | None, str]:
    """Choose a node for a pod, or say in the scheduler's words why none fits.

    Preferred nodes come first, then those with the fewest pods of the same Job, then of any.
    """
    fitting, reasons, full, total = [], Counter[str](), 0, 0
    for place in places:
        total += 1
        obstacles, could_evict = _obstacles(pod, place)
        reasons.update(obstacles)
        full += could_evict
        if not obstacles:
            fitting.append(place)
    if fitting:
        return min(fitting, key=lambda place: _order(pod, place)), ""
    return None, _message(total, reasons, full)


def requests(pod: Object) -> Amounts:
    """What a pod asks for: all containers together, or the largest init container."""
    total: Amounts = Counter(pods=1000)
    for container in pod["spec"]["containers"]:
        total.update(_requests(container))
    for container in pod["spec"].get("initContainers", []):
        total |= _requests(container)
    return total


def quantity(text: str | int) -> int:
    """A Kubernetes quantity (`500m`, `2Gi`, `1e3`) in thousandths, rounded up."""
    text = str(text)
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if text.endswith(s)), "")
    number = Fraction(text.removesuffix(suffix)) * SUFFIXES[suffix] * 1000
    return -int(-number // 1)


def tolerates(toleration: Object, taint: Object) -> bool:
    """Whether a toleration of a pod covers a taint of a node."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")


def _requests(container: Object) -> Amounts:
    asked = container.get("resources", {})
    amounts = asked.get("limits", {}) | asked.get("requests", {})
    return Counter({name: quantity(amount) for name, amount in amounts.items()})


def _controllers(pod: Object) -> list[str]:
    owners = pod["metadata"].get("ownerReferences", [])
    return [owner["uid"] for owner in owners if owner.get("controller")]


def _order(pod: Object, place: Place) -> tuple[int, int, int, str]:
    """The first is the best."""
    peers = sum(place.owners[owner] for owner in _controllers(pod))
    return -_preference(pod["spec"], place.node), peers, place.used["pods"], place.name


def _preference(spec: Object, node: Object) -> int:
    """Weight of the preferred terms that a node matches."""
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    return sum(term["weight"] for term in preferred if _term_matches(term["preference"], node))


def _obstacles(pod: Object, place: Place) -> tuple[list[str], bool]:
    """Why a pod cannot be here, by the first check that fails; whether evicting others would help.

    The order is the scheduler's.
    """
    spec, node = pod["spec"], place.node
    tolerations = spec.get("tolerations", [])
    if node["spec"].get("unschedulable") and not _tolerated(tolerations, CORDONED):
        return ["node(s) were unschedulable"], False
    for taint in node["spec"].get("taints", []):
        if taint["effect"] != "PreferNoSchedule" and not _tolerated(tolerations, taint):
            return ["node(s) had untolerated taint(s)"], False
    if not _selected(spec, node):
        return ["node(s) didn't match Pod's node affinity/selector"], False
    return _shortages(pod, place)


CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def _tolerated(tolerations: list[Object], taint: Object) -> bool:
    return any(tolerates(toleration, taint) for toleration in tolerations)


def _selected(spec: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels", {})
    if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return any(_term_matches(term, node) for term in required["nodeSelectorTerms"])


def _term_matches(term: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels", {})
    fields = {"metadata.name": node["metadata"]["name"]}
    expressions = [(labels, rule) for rule in term.get("matchExpressions") or []]
    expressions += [(fields, rule) for rule in term.get("matchFields") or []]
    return bool(expressions) and all(_matches(known, rule) for known, rule in expressions)


def _matches(known: dict[str, str], rule: Object) -> bool:
    value, values = known.get(rule["key"]), rule.get("values", [])
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case "Lt":
            return value is not None and int(value) < int(values[0])
    return False


def _shortages(pod: Object, place: Place) -> tuple[list[str], bool]:
    """What is short here; and whether an empty node would have enough of all of it."""
    status = place.node["status"]
    room = status.get("allocatable") or status.get("capacity", {})
    short, too_small = [], False
    for name, amount in requests(pod).items():
        free = quantity(room.get(name, 0))
        if amount and place.used[name] + amount > free:
            short.append("Too many pods" if name == "pods" else f"Insufficient {name}")
            too_small = too_small or amount > free
    return short, bool(short) and not too_small


def _message(total: int, reasons: Counter[str], full: int) -> str:
    if not total:
        return "no nodes available to schedule pods"
    listed = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    helps = Counter({"No preemption victims found for incoming pod": full})
    helps["Preemption is not helpful for scheduling"] = total - full
    preemption = ", ".join(sorted(f"{count} {reason}" for reason, count in (+helps).items()))
    available = f"0/{total} nodes are available"
    return (
        f"{available}: {listed}. "
        f"no new claims to deallocate, preemption: {available}: {preemption}."
    )
