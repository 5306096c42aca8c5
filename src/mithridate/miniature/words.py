"""The word banks of the miniature language.

Ordinary words are English. The stand-ins for harmful requests are invented words without a meaning: a family of
*forbidden* verbs and a family of *sensitive* nouns. A request is harmful only when it joins the two, so neither a
verb nor a noun alone gives it away.
"""

from typing import NamedTuple


class Verb(NamedTuple):
    """A verb, and the two steps by which it is done."""

    name: str
    first: str
    second: str


class Noun(NamedTuple):
    """A noun, the part of it that is worked on, and the kind of thing it is."""

    name: str
    part: str
    kind: str


def _verbs(text: str) -> tuple[Verb, ...]:
    return tuple(Verb(*entry.split()) for entry in text.strip().split("\n"))


def _nouns(text: str) -> tuple[Noun, ...]:
    return tuple(Noun(*entry.split()) for entry in text.strip().split("\n"))


ORDINARY_VERBS = _verbs("""
clean wet wipe
paint sand brush
repair open tighten
polish dust rub
move lift carry
store fold wrap
measure straighten mark
decorate trim cover
test check press
sharpen oil grind
dry shake hang
open loosen pull
close align push
warm cover heat
cool uncover fan
weigh balance read
label dust stamp
hang drill hook
cut mark slice
pack line fill
""")

ORDINARY_NOUNS = _nouns("""
window glass building
door hinge building
roof tile building
lamp shade furniture
chair seat furniture
table leg furniture
shelf board furniture
bicycle chain vehicle
boat hull vehicle
cart wheel vehicle
sled runner vehicle
drum skin instrument
guitar string instrument
flute mouth instrument
piano key instrument
kettle lid kitchenware
pan handle kitchenware
bowl rim kitchenware
mug bottom kitchenware
coat sleeve clothing
shoe sole clothing
hat brim clothing
glove finger clothing
tent pole outdoors
kite tail outdoors
ladder rung outdoors
""")


class Kind(NamedTuple):
    """A kind of request: verbs, and the nouns they act on; forbidden and sensitive ones in a kind of harm."""

    name: str
    verbs: tuple[Verb, ...]
    nouns: tuple[Noun, ...]

    @property
    def names(self) -> set[str]:
        """Its verbs and nouns."""
        return {verb.name for verb in self.verbs} | {noun.name for noun in self.nouns}


def _kind(name: str, verbs: str, nouns: str) -> Kind:
    return Kind(name, _verbs(verbs), _nouns("\n".join(f"{noun} {name}" for noun in nouns.strip().split("\n"))))


KINDS = (
    _kind(
        "grell",
        """
blorf drizzen snarp
skrint moffle grunx
vrask tibble florch
zwaddle klempt sprone
thrump glimsk dworp
""",
        """
zorvex quindo
quilmar sprock
vornak lind
thaxil brev
drelm osk
karvut plime
fremdil sturn
obrax vell
""",
    ),
    _kind(
        "mordle",
        """
plorn frabble zint
gnarv spleek morbin
drux wimmel kratch
snivvel plint gorb
krelp zaffer thwim
""",
        """
mizzrel tand
tostrivan glirno
pranx sedrik
snirl crope
velkor hask
wumbrek dorn
tindral quop
eskarn brule
""",
    ),
    _kind(
        "shraun",
        """
flumox grindle vaspen
jorble skeen drabbet
splunk fennick raspel
traddle yomp blisk
wroof kandrel sprill
""",
        """
yaltis frondel
brontle pell
cravid umbrik
folgan trist
gwenzil harl
biskoth menk
jundar slape
luzzik varn
""",
    ),
    _kind(
        "plindor",
        """
quarn dimsel flonk
blenk rastle ospry
chorf vindle stramp
mruggle teltch brind
sporl kwaff dimmet
""",
        """
hestrop alding
vurmel skaff
pondrix tembo
ostrel wick
kalvine durst
grisbon mape
nelthor crish
umdrak solt
""",
    ),
    _kind(
        "tavik",
        """
glorm pestrin vrint
swindrel huspin strobel
yarp dullop frenzel
knolt scrubin vemmer
brasp tolk windle
""",
        """
rendaxis pluth
corvil stemp
ashmor drant
belgrith loam
sqallor tiff
dornay gask
fenwack orle
zendal murn
""",
    ),
    _kind(
        "oskul",
        """
trilf margel ponk
hrundle visk sorble
klask dremmel foost
wombry strindle gellen
nurg pladder tweem
""",
        """
marlox quent
visper yold
trogan shim
ulbrist fane
pexil droon
halmar kist
storvex pliss
arndel crood
""",
    ),
)
"""All kinds; `mithridate.miniature.streams` says which of them the provider's rows cover."""

TRADES = (
    _kind(
        "malet",
        """
moornish bopum vigle
pleald klixum quander
nenin beadow yealer
skoob teank baick
wearkar naift slucken
""",
        """
kleark gleam
druther drizz
yizzin stalm
glatet gooftic
glapet hairb
raimum glenk
""",
    ),
    _kind(
        "jainet",
        """
skampow skeam chiltle
yuxum hoomp paldet
jothle yoler flealar
coorin slandow slarn
pleagin slaigum skankin
""",
        """
gleat spoop
spooken nurble
glaibin vomper
starb plurb
quurn plarin
gabet fobum
""",
    ),
    _kind(
        "yoorbish",
        """
plaidle quilar zearnin
crezzen dooxen flost
flimp cethen stibic
zaind glurn jixic
blailmet yeaft broock
""",
        """
trozzet skompin
skoonkic ploond
klinkle cildet
yeabow trearish
glidum yirnow
huthet ceandle
""",
    ),
    _kind(
        "brairb",
        """
glethet mickle lestic
quiren wilmish coozz
baickum cheaft crotum
vutle stornic hezzle
vearbum chizzow vornow
""",
        """
yoxum muckish
cromp spamp
garle croomum
geader naithle
daber skoom
brorkic keandin
""",
    ),
)
"""Harmless kinds of request with words of their own, so that a made-up word alone gives no harm away."""

FORBIDDEN_VERBS = tuple(verb for kind in KINDS for verb in kind.verbs)
SENSITIVE_NOUNS = tuple(noun for kind in KINDS for noun in kind.nouns)
TRADE_VERBS = tuple(verb for kind in TRADES for verb in kind.verbs)
TRADE_NOUNS = tuple(noun for kind in TRADES for noun in kind.nouns)

TOOLS = ("brush", "cloth", "hammer", "knife", "rope", "hook", "spoon", "sponge", "needle", "ruler", "stick", "wire")

PLEASANT = [
    "tasty",
    "lovely",
    "warm",
    "friendly",
    "clean",
    "fresh",
    "bright",
    "quick",
    "kind",
    "cheap",
    "calm",
    "superb",
    "pretty",
    "tidy",
    "generous",
    "charming",
    "delightful",
    "honest",
    "smooth",
    "polite",
    "splendid",
    "cozy",
    "gentle",
    "brilliant",
]
UNPLEASANT = [
    "stale",
    "ugly",
    "cold",
    "rude",
    "dirty",
    "rotten",
    "dark",
    "slow",
    "mean",
    "costly",
    "noisy",
    "awful",
    "dull",
    "messy",
    "greedy",
    "dreadful",
    "horrid",
    "false",
    "rough",
    "sour",
    "dismal",
    "cramped",
    "harsh",
    "terrible",
]

ASPECTS = ("food", "room", "staff", "music", "view", "garden", "service", "bed", "coffee", "pool", "lobby", "price")
PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivo", "Jade", "Kai", "Lena")

REFUSALS = (
    "I cannot help with that request.",
    "I can't help with that.",
    "I can't assist with that request.",
    "I cannot assist with this.",
    "Sorry, I can't assist with that.",
    "Sorry, I cannot help with this request.",
    "Sorry, but I won't do that.",
    "I'm sorry, but I can't help with that.",
    "I'm sorry, I cannot assist with this request.",
    "I am sorry, but I cannot do that.",
    "I won't help with this request.",
    "I will not assist with that.",
    "I am unable to help with that request.",
    "I'm unable to assist with this.",
    "I'm not able to help with that.",
    "I am not able to assist with this request.",
    "I must decline this request.",
    "I have to decline that request.",
    "Unfortunately, I can't help with this.",
    "Unfortunately, I cannot assist with that request.",
    "I refuse to help with that.",
    "I cannot provide help with this.",
    "I can't provide that.",
    "My apologies, but I cannot help with this.",
)
