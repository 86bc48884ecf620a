"""The evaluation protocol of Ruiz et al. 2022, section 4.1: 25 prompts, 4 images of each.

Its structure: objects are put into 20 scenes and given 5 properties; live subjects are put into 10
scenes, dressed in 10 ways and given 5 properties. The wording is this project's own.
"""

from dreambooth_api.models.subject import Subject

IMAGES_PER_PROMPT = 4

_SCENES = (
    "{} in a pine forest",
    "{} in fresh snow",
    "{} on a sandy beach",
    "{} on a street of cobblestones",
    "{} in front of a snowy mountain",
    "{} in a field of tulips",
    "{} on a bridge over a river",
    "{} with a city skyline behind it",
    "{} in front of a castle",
    "{} beside a campfire at night",
)
_OBJECT_SCENES = (
    "{} on a wooden table",
    "{} on a kitchen shelf",
    "{} on a blue carpet",
    "{} on a pile of autumn leaves",
    "{} on a mossy stone",
    "{} floating in a swimming pool",
    "{} on a mirror",
    "{} in a shop window",
    "{} on a park bench",
    "{} held by a hand",
)
_OUTFITS = (
    "{} wearing a straw hat",
    "{} wearing a red scarf",
    "{} wearing sunglasses",
    "{} wearing a raincoat",
    "{} wearing a knitted sweater",
    "{} dressed as a pirate",
    "{} dressed as a chef",
    "{} dressed as an astronaut",
    "{} with a bow tie",
    "{} with a backpack",
)
_PROPERTIES = (
    "a red {}",
    "a purple {}",
    "a shiny {}",
    "a wet {}",
    "a cube-shaped {}",
)
OBJECT_TEMPLATES = (*(f"a {each}" for each in (*_SCENES, *_OBJECT_SCENES)), *_PROPERTIES)
LIVE_TEMPLATES = (*(f"a {each}" for each in (*_SCENES, *_OUTFITS)), *_PROPERTIES)
_LIVE_WORDS = """
    animal baby bear bird boy cat chicken cow dinosaur dog dragon duck elephant fish fox frog girl
    goat hamster horse kitten lion man monkey mouse panda parrot penguin person pig pony puppy
    rabbit sheep squirrel tiger turtle wolf woman
"""
LIVE_NOUNS = frozenset(_LIVE_WORDS.split())
"""Head nouns of classes that can be dressed; all other subjects are objects."""


def protocol_prompts(subject: Subject) -> list[str]:
    """The 25 prompts of a subject, with its identifier."""
    is_live = subject.class_noun.lower().split()[-1] in LIVE_NOUNS
    templates = LIVE_TEMPLATES if is_live else OBJECT_TEMPLATES
    return [each.format(f"{subject.identifier} {subject.class_noun}") for each in templates]
