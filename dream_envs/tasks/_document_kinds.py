"""What the documents of ``tasks.documents`` are about: kinds of things, their attributes, and words to fill in.

Nothing here is true of anything that exists.  Every attribute has three wordings that share as little as they can: the
sentence of the text, the question asked awake and the question of the probes.  ``{x}`` is the thing, ``{v}`` the value.
"""

from __future__ import annotations

import msgspec

#: First syllables of what a text is about, one a lesson, so that no two lessons of an episode are about the same.
SUBJECTS = (
    *("Tess", "Orb", "Quil", "Vash", "Hald", "Murr", "Zeph", "Aln", "Brock", "Cind", "Dov", "Eth"),
    *("Fenn", "Gorm", "Illy", "Jast", "Kerr", "Lum", "Noss", "Perr", "Rowk", "Skel", "Umb", "Yarr"),
)
#: First syllables of every other name, none of them above; the two lists behind it end both.
OTHERS = (
    *("Bal", "Cor", "Dre", "Elv", "Fal", "Gan", "Hes", "Jor", "Kal", "Lor"),
    *("Mar", "Nev", "Ost", "Pol", "Ras", "Sel", "Tor", "Ulm", "Ven", "Wil"),
)
MIDDLES = (
    *("a", "e", "i", "o", "u", "ande", "eri", "iso", "olu", "ura"),
    *("ami", "edo", "ila", "onne", "ube", "aste", "evi", "inda", "orra", "uke"),
)
ENDS = (
    *("ban", "cott", "dell", "fors", "gast", "hart", "kin", "lund", "mont", "nard"),
    *("quist", "rell", "sen", "tane", "vik", "wold", "zar", "moor", "brand", "lock"),
)

#: Values by their kind, but for names and numbers.
WORDS: dict[str, tuple[str, ...]] = {
    "colour": (
        *("amber", "black", "blue", "brown", "copper", "crimson", "green", "grey"),
        *("ivory", "orange", "pink", "purple", "scarlet", "silver", "white", "yellow"),
    ),
    "material": (
        *("basalt", "birch", "bone", "brass", "bronze", "cedar", "clay", "glass"),
        *("granite", "iron", "leather", "limestone", "oak", "slate", "steel", "willow"),
    ),
    "month": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
    "animal": (
        *("badger", "bear", "crane", "crow", "deer", "eagle", "fox", "goat", "hare", "heron"),
        *("horse", "lynx", "otter", "owl", "raven", "salmon", "seal", "swan", "toad", "wolf"),
    ),
    "goods": (
        *("amulets", "barley", "bells", "candles", "cheese", "cloth", "ginger", "honey"),
        *("ink", "lanterns", "mirrors", "paper", "pepper", "rope", "salt", "wine"),
    ),
}
#: Whole numbers by their kind: the first and the last.
NUMBERS: dict[str, tuple[int, int]] = {"year": (1500, 1899), "number": (20, 999)}


class Attribute(msgspec.Struct, frozen=True):
    """Something that can be known: ``kind`` of its value, the text's sentence and two questions."""

    key: str
    kind: str
    sentence: str
    wake: str
    probe: str


def _of(*rows: tuple[str, str, str, str, str]) -> tuple[Attribute, ...]:
    return tuple([Attribute(*row) for row in rows])


#: By kind of thing: the sentence that introduces it, and what can be known about it.
KINDS: dict[str, tuple[str, tuple[Attribute, ...]]] = {
    "town": (
        "{x} is a small town in a northern valley.",
        _of(
            ("founder", "name", "It was founded by a miller called {v}.",
             "Who founded {x}?", "Which miller does the town of {x} owe its beginning to?"),
            ("walled", "year", "Its wall was finished in {v}.",
             "In what year was the wall of {x} finished?", "When did the people of {x} complete their wall?"),
            ("houses", "number", "There are {v} houses inside the wall.",
             "How many houses are there inside the wall of {x}?",
             "What is the number of houses that the wall of {x} surrounds?"),
            ("roofs", "colour", "By custom every roof is painted {v}.",
             "What colour is every roof in {x} painted?",
             "Looking down on {x}, which colour would you see on the roofs?"),
            ("fair", "month", "The yearly fair is held in {v}.",
             "In which month is the fair of {x} held?", "When in the year would you travel to {x} to visit its fair?"),
            ("trade", "goods", "Its merchants live from selling {v}.",
             "What do the merchants of {x} sell?", "Which goods is the trade of {x} built on?"),
        ),
    ),
    "ship": (
        "The {x} was a merchant ship with three masts.",
        _of(
            ("launched", "year", "She left the yard in {v}.",
             "In what year did the ship {x} leave the yard?", "When was the {x} launched?"),
            ("captain", "name", "Her first captain was {v}.",
             "Who was the first captain of the {x}?", "Under whose command did the {x} first sail?"),
            ("sails", "colour", "Her sails were dyed {v}.",
             "What colour were the sails of the {x} dyed?", "By which colour of canvas was the {x} known at sea?"),
            ("crew", "number", "She needed a crew of {v} sailors.",
             "How many sailors did the crew of the {x} need?", "What was the size of the crew aboard the {x}?"),
            ("figure", "animal", "A carved {v} looked out from her bow.",
             "Which animal was carved on the bow of the {x}?", "What creature served the {x} as a figurehead?"),
            ("cargo", "goods", "Most of her voyages carried {v}.",
             "What did most voyages of the {x} carry?", "Which cargo usually filled the hold of the {x}?"),
        ),
    ),
    "scholar": (
        "{x} was a scholar who travelled all her life.",
        _of(
            ("born", "year", "She was born in {v}.",
             "In what year was {x} born?", "What is the year of birth of the scholar {x}?"),
            ("teacher", "name", "All that she knew of the stars she learned from {v}.",
             "From whom did {x} learn all that she knew of the stars?", "Who was the teacher of {x} in astronomy?"),
            ("maps", "number", "She drew {v} maps.",
             "How many maps did {x} draw?", "How large is the number of maps from the hand of {x}?"),
            ("companion", "animal", "A tame {v} followed her everywhere.",
             "Which tame animal followed {x} everywhere?", "What kind of creature kept {x} company on her travels?"),
            ("coat", "colour", "She is remembered for her {v} coat.",
             "What colour was the coat of {x}?", "In a coat of which colour is {x} remembered?"),
            ("case", "material", "Her instruments lay in a case made of {v}.",
             "What was the case for the instruments of {x} made of?",
             "Out of which material was the box that held the tools of {x}?"),
        ),
    ),
    "bridge": (
        "The {x} bridge crosses a gorge in the hills.",
        _of(
            ("builder", "name", "It was designed by {v}.",
             "Who designed the {x} bridge?", "From whose plans was the {x} bridge built?"),
            ("opened", "year", "The first cart crossed it in {v}.",
             "In what year did the first cart cross the {x} bridge?", "When was the {x} bridge opened to carts?"),
            ("length", "number", "It is {v} paces long.",
             "How many paces long is the {x} bridge?", "How far must one walk, in paces, to cross the {x} bridge?"),
            ("stone", "material", "Its arches are built of {v}.",
             "What are the arches of the {x} bridge built of?", "Which building material carries the {x} bridge?"),
            ("guards", "animal", "A stone {v} guards either end.",
             "Which stone animal guards either end of the {x} bridge?",
             "The statues at the ends of the {x} bridge show what creature?"),
            ("closed", "month", "It is closed every {v} because of the floods.",
             "In which month is the {x} bridge closed?", "When in the year do floods shut the {x} bridge?"),
        ),
    ),
    "instrument": (
        "The {x} is a musical instrument that few people can play.",
        _of(
            ("inventor", "name", "It was invented by {v}.",
             "Who invented the instrument {x}?", "To whom do musicians owe the {x}?"),
            ("heard", "year", "It was first heard in public in {v}.",
             "In what year was the {x} first heard in public?", "When did an audience first listen to a {x}?"),
            ("strings", "number", "It has {v} strings.",
             "How many strings does the {x} have?", "What number of strings must the maker of a {x} fit?"),
            ("body", "material", "Its body is made of {v}.",
             "What is the body of the {x} made of?", "Out of which material do makers form the body of a {x}?"),
            ("varnish", "colour", "Good ones are varnished {v}.",
             "In what colour are good instruments of the kind {x} varnished?",
             "Which colour of varnish is the mark of a good {x}?"),
            ("voice", "animal", "Its sound is compared to the cry of the {v}.",
             "The sound of the {x} is compared to the cry of which animal?",
             "Which creature is the {x} said to sound like?"),
        ),
    ),
    "guild": (
        "The guild of {x} kept its craft a secret.",
        _of(
            ("master", "name", "Its first master was {v}.",
             "Who was the first master of the guild of {x}?", "Who led the guild of {x} before anyone else?"),
            ("charter", "year", "The king gave it a charter in {v}.",
             "In what year did the guild of {x} get its charter?",
             "When did the king grant the guild of {x} its rights?"),
            ("members", "number", "It never had more than {v} members.",
             "How many members did the guild of {x} have at most?",
             "What was the upper limit on membership in the guild of {x}?"),
            ("craft", "goods", "It was the only one allowed to make {v}.",
             "What was only the guild of {x} allowed to make?",
             "The making of which goods was reserved for the guild of {x}?"),
            ("banner", "colour", "Its banner was plain {v}.",
             "What colour was the banner of the guild of {x}?",
             "Under a flag of which colour did the guild of {x} march?"),
            ("feast", "month", "Its great feast fell in {v}.",
             "In which month did the great feast of the guild of {x} fall?",
             "At what time of the year did the guild of {x} hold its banquet?"),
        ),
    ),
    "tower": (
        "The tower of {x} stands alone on the coast.",
        _of(
            ("keeper", "name", "Its last keeper was called {v}.",
             "What was the last keeper of the tower of {x} called?",
             "Who looked after the tower of {x} at the very end?"),
            ("burned", "year", "A fire destroyed its upper rooms in {v}.",
             "In what year did a fire destroy the upper rooms of the tower of {x}?",
             "When did the top of the tower of {x} burn?"),
            ("steps", "number", "A stair of {v} steps leads to the top.",
             "How many steps lead to the top of the tower of {x}?",
             "What number of stairs does one climb in the tower of {x}?"),
            ("door", "material", "Its only door is made of {v}.",
             "What is the only door of the tower of {x} made of?",
             "Which material closes the entrance of the tower of {x}?"),
            ("light", "colour", "The light of its lamp is {v}.",
             "What colour is the light of the tower of {x}?",
             "Sailors know the tower of {x} by a lamp of which colour?"),
            ("nests", "animal", "One old {v} is said to live in the cellar.",
             "Which animal is said to live in the cellar of the tower of {x}?",
             "What creature do people believe to dwell below the tower of {x}?"),
        ),
    ),
    "festival": (
        "The festival of {x} is older than anyone can remember.",
        _of(
            ("month", "month", "It takes place in {v}.",
             "In which month does the festival of {x} take place?", "When in the year do people celebrate {x}?"),
            ("singer", "name", "Its songs were written down by {v}.",
             "Who wrote down the songs of the festival of {x}?", "To whom do we owe the written songs of {x}?"),
            ("banned", "year", "It was forbidden for a while in {v}.",
             "In what year was the festival of {x} forbidden?", "When did the authorities ban {x}?"),
            ("guests", "number", "It draws about {v} guests.",
             "About how many guests does the festival of {x} draw?", "How large is the crowd that usually visits {x}?"),
            ("mask", "animal", "The dancers wear the mask of the {v}.",
             "The mask of which animal do the dancers of {x} wear?",
             "As what creature do people dress up to dance at {x}?"),
            ("gift", "goods", "Children are given {v}.",
             "What are children given at the festival of {x}?", "Which present do the young receive at {x}?"),
        ),
    ),
}  # fmt: skip
