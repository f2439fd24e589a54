"""Vocabularies and recipes: how a column's name and declared type become believable text and numbers. Host side, no arrays.

Text is made from a *template*: literal characters and pools in braces. ``{pool}`` is one word of `POOLS`; ``{pool!}`` is a digit of
the row's own number, so that a template whose marked pools multiply to at least the table's rows never gives a text twice. Phone
numbers (555-01xx) and mail domains (example.com, .org, .net) are the ranges reserved for fiction.
"""

from __future__ import annotations

import dataclasses
import math
import re
import string

__all__ = [
    "POOLS",
    "UUID_TEMPLATE",
    "NumberLaw",
    "date_law",
    "key_template",
    "number_law",
    "parts",
    "template_length",
    "template_rows",
    "text_template",
]

UUID_TEMPLATE = "{uuid}"  # not a pool: 36 characters in the form of RFC 4122, version 4
_MOST = 2**31  # rows of a table
_BASE36 = string.digits + string.ascii_uppercase


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.replace("\n", " ").split(",") if phrase.strip())


_FIRST = _words(
    """Aaron Ada Aisha Alice Amara Amir Ana Andre Anika Anton Arjun Astrid Beatriz Bruno Carla Carmen Cedric Chen Clara Dalia Daniel
    David Diego Divya Edith Elena Elias Emma Eric Esther Fatima Felix Fiona Gabriel Grace Hana Hassan Helen Hugo Ibrahim Ines Irene Ivan
    Jack Jamal Jana Jonas Julia Kamal Kofi Laila Lars Leo Lina Lucas Luna Maria Mateo Maya Mei Mila Mohan Nadia Naomi Nina Noah Nora
    Olga Omar Oscar Paula Pedro Priya Rafael Ravi Rosa Samir Sara Sofia Tara Thomas Uma Victor Wei Yara Yusuf Zoe"""
)
_LAST = _words(
    """Abbott Adams Ahmed Ali Alvarez Andersen Bailey Baker Banerjee Barros Becker Bennett Bianchi Brown Campbell Carter Castro Chen
    Cohen Costa Cruz Das Dubois Edwards Eriksen Evans Fernandez Fischer Flores Foster Garcia Gomez Gupta Haddad Hansen Harris Hassan
    Hoffmann Hughes Ito Ivanov Jackson Jensen Johnson Jones Kapoor Keller Khan Kim Kowalski Kumar Larsen Lee Lewis Lopez Martin Mehta
    Mendes Meyer Miller Moore Morales Mwangi Nakamura Nguyen Novak Okafor Olsen Park Patel Petrov Quinn Ramos Reddy Rossi Santos Sato
    Schmidt Shah Silva Singh Smith Tanaka Taylor Torres Turner Vargas Walker Weber Wilson Wong Young Zhang"""
)
_CITY = _phrases(
    """Ashford, Bayview, Bellmont, Brookfield, Cedar Falls, Clearwater, Crestwood, Dunmore, Eastgate, Elmwood, Fairhaven, Fernhill,
    Glenwood, Greendale, Hartford, Hillcrest, Ironbridge, Kingsport, Lakeside, Lindenberg, Longford, Maplewood, Marlow, Meadowbrook,
    Millbrook, Newbridge, Northfield, Oakdale, Old Harbor, Parkview, Pine Ridge, Port Ellis, Quarry Hill, Queensbury, Redwood, Ridgeway,
    Riverside, Rosemont, Sandford, Silver Lake, Southport, Springfield, Stonebridge, Summerton, Thornbury, Union City, Valley View,
    Westbrook, Whitefield, Woodstock"""
)
_STATE = _phrases(
    """Alabama, Alaska, Arizona, California, Colorado, Florida, Georgia, Hawaii, Idaho, Illinois, Indiana, Iowa, Kansas, Kentucky, Maine,
    Maryland, Michigan, Minnesota, Montana, Nebraska, Nevada, New Jersey, New Mexico, New York, Ohio, Oklahoma, Oregon, Tennessee, Texas,
    Utah, Vermont, Virginia, Washington, Wisconsin, Wyoming"""
)
_STATE_CODE = _words("AL AK AZ CA CO FL GA HI ID IL IN IA KS KY ME MD MI MN MT NE NV NJ NM NY OH OK OR TN TX UT VT VA WA WI WY")
_COUNTRY = _phrases(
    """Argentina, Australia, Austria, Belgium, Brazil, Canada, Chile, Denmark, Egypt, Finland, France, Germany, Ghana, Greece, India,
    Indonesia, Ireland, Italy, Japan, Kenya, Mexico, Morocco, Netherlands, New Zealand, Nigeria, Norway, Peru, Poland, Portugal, Spain,
    Sweden, Switzerland, Thailand, United Kingdom, United States, Vietnam"""
)
_COUNTRY_CODE = _words("AR AU AT BE BR CA CL DK EG FI FR DE GH GR IN ID IE IT JP KE MX MA NL NZ NG NO PE PL PT ES SE CH TH GB US VN")
_STREET = _phrases(
    """Acorn Lane, Alder Street, Ash Avenue, Bay Road, Beech Street, Birch Road, Bridge Street, Canal Street, Cedar Avenue, Chapel Road,
    Cherry Lane, Church Street, Cliff Road, College Street, Elm Street, Farm Lane, Forest Avenue, Garden Street, Grove Road, Harbor Street,
    High Street, Hill Road, Ivy Lane, Juniper Street, Lake Avenue, Laurel Street, Liberty Street, Linden Avenue, Main Street, Maple Street,
    Market Street, Meadow Lane, Mill Road, North Street, Oak Avenue, Orchard Road, Park Avenue, Pine Street, Poplar Road, Prospect Street,
    Ridge Road, River Street, School Lane, South Street, Spring Street, Station Road, Sunset Avenue, Valley Road, Walnut Street,
    Willow Lane"""
)
_SUBJECT = _phrases(
    """Algebra, Anatomy, Art History, Astronomy, Biology, Botany, Calculus, Ceramics, Chemistry, Civics, Composition, Computing, Dance,
    Data Analysis, Drama, Ecology, Economics, Electronics, Ethics, French, Genetics, Geography, Geology, Geometry, German, Health, History,
    Journalism, Literature, Logic, Mechanics, Music, Nutrition, Optics, Painting, Philosophy, Physics, Poetry, Politics, Programming,
    Psychology, Robotics, Sculpture, Sociology, Spanish, Statistics, Thermodynamics, World Religions"""
)
_DEPARTMENT = _phrases(
    """Administration, Arts, Biology, Business, Chemistry, Commerce, Computer Science, Economics, Engineering, English, Finance, Geography,
    History, Languages, Law, Logistics, Marketing, Mathematics, Music, Operations, Philosophy, Physics, Psychology, Research, Sales,
    Science, Social Studies, Sports, Support"""
)
_ITEM = _phrases(
    """Apple juice, Bagel, Banana, Bean soup, Black tea, Blueberry muffin, Bread roll, Brownie, Caesar salad, Carrot cake, Cheese sandwich,
    Chicken wrap, Chocolate bar, Cocoa, Coffee, Cookie, Corn salad, Croissant, Egg sandwich, Falafel, Fruit cup, Fruit salad, Garlic bread,
    Granola bar, Green tea, Grilled cheese, Hummus plate, Iced tea, Lemonade, Lentil soup, Mango juice, Milk, Mineral water, Noodles,
    Oatmeal, Omelette, Orange juice, Pancakes, Pasta, Pizza slice, Popcorn, Potato soup, Pretzel, Rice bowl, Samosa, Smoothie,
    Tomato soup, Vegetable curry, Veggie burger, Yogurt"""
)
_PRODUCT = _phrases(
    """backpack, bicycle bell, blanket, bookshelf, bottle, camera strap, candle, chair, clock, coffee mug, cutting board, desk lamp,
    door mat, earphones, fan, flashlight, folder, frame, garden hose, gloves, hammer, helmet, jacket, kettle, keyboard, ladder, mirror,
    monitor stand, notebook, office chair, paint set, pencil case, pillow, planter, raincoat, rug, scarf, screwdriver, shelf, speaker,
    stapler, table, teapot, tent, toolbox, towel, tripod, umbrella, vase, wallet"""
)
_ADJECTIVE = _words(
    """amber bold brave bright calm classic clever compact cozy crisp daily dark deep dual early easy elegant fine firm fresh gentle golden
    grand green handy happy heavy honest ideal light little lively lucky modern natural neat new noble open plain prime proud pure quick
    quiet rapid rare red round royal sharp silent silver simple smart smooth soft solid steady strong sunny swift tidy tiny urban vivid warm
    white wide wild wise young"""
)
_NOUN = _words(
    """anchor arrow beacon bridge brook canyon castle cedar cloud comet compass coral creek crown dawn delta dune eagle echo ember falcon
    field flame forest garden gate glacier grove harbor hill horizon island lake lantern leaf light meadow moon mountain oak ocean orchard
    path peak pebble pine planet plain prairie rain reef ridge river rock rose sail shadow shore sky snow spark spring star stone storm
    stream summit sun tide trail tree valley wave willow wind wing"""
)
_GAME = _phrases(
    """Archery, Athletics, Badminton, Baseball, Basketball, Chess, Cricket, Cycling, Fencing, Football, Golf, Gymnastics, Handball, Hockey,
    Judo, Karate, Kabaddi, Lacrosse, Netball, Rowing, Rugby, Sailing, Skating, Softball, Squash, Swimming, Table Tennis, Tennis, Volleyball,
    Wrestling"""
)
_TEAM = _words("Badgers Bears Bulls Comets Cougars Dolphins Eagles Falcons Foxes Hawks Hornets Jaguars Kites Lions Lynx Orcas Otters Owls")
_TEAM += _words("Panthers Pumas Ravens Rockets Sharks Stags Stars Storks Tigers Titans Wolves Wrens")
_POSITION = _phrases(
    """Captain, Vice-captain, Goalkeeper, Defender, Midfielder, Forward, Striker, Winger, Pitcher, Catcher, Guard, Center, Substitute,
    Runner"""
)
_ACHIEVEMENT = _phrases(
    """Participation, Best newcomer, Fair play, Finalist, Semi-finalist, Bronze medal, Silver medal, Gold medal, Player of the match,
    Champion"""
)
_DEGREE = _words("BA BSc BEd BCom BTech BFA MA MSc MEd MBA MTech MPhil PhD EdD")
_COMPANY = _words(
    """Aldermoor Bluefield Brightwater Cobalt Copperline Eastwind Evergreen Fairmont Goldleaf Graystone Highland Ironwood Keystone
    Lakeland"""
)
_COMPANY += _words(
    """Meridian Northstar Oakridge Pinecrest Quantum Redstone Riverbend Silverline Stonegate Summit Trident Unity Vanguard Westfield"""
)
_SUFFIX = _words("Ltd Inc LLC Group Partners Works Labs Supply Foods Systems Services Trading")
_PLACE = _phrases(
    """Central Library, City Hall, Clock Tower, Community Center, Corner Bakery, Courthouse, East Gate, Fire Station, Fountain Square,
    Garden Plaza, Grand Hotel, Harbor Pier, Health Clinic, Lake Park, Main Square, Market Hall, Metro Station, Museum, North Gate, Old Mill,
    Post Office, River Bridge, Rose Garden, South Gate, Stadium, Sunset Mall, Town Theater, Train Station, University Gate, West End"""
)
_JOB = _phrases(
    """Accountant, Administrator, Advisor, Analyst, Architect, Assistant, Auditor, Buyer, Chemist, Consultant, Coordinator, Designer,
    Developer, Director, Editor, Electrician, Engineer, Inspector, Instructor, Lawyer, Librarian, Manager, Mechanic, Nurse, Officer,
    Planner, Researcher, Supervisor, Technician, Writer"""
)
_OPENING = _phrases(
    """A short note on, A first look at, A practical guide to, An introduction to, An overview of, Background reading on, Case studies of,
    Common questions about, Current topics in, Hands-on work with, Key facts about, Lessons from, Methods for, Notes on, The basics of,
    The history of, Weekly summary of, What to know about"""
)
_STATUS = _words("active inactive pending closed open archived")
_COLOR = _words(
    """beige black blue brown cream crimson gold gray green indigo ivory lilac maroon navy olive orange pink purple red silver teal
    white yellow"""
)
_LANGUAGE = _words(
    """Arabic Bengali Danish Dutch English Finnish French German Greek Hindi Italian Japanese Korean Mandarin Polish Portuguese Spanish
    Swahili Swedish Tamil Turkish Urdu"""
)

POOLS: dict[str, tuple[str, ...]] = {
    "first": _FIRST,
    "last": _LAST,
    "first_low": tuple(name.lower() for name in _FIRST),
    "last_low": tuple(name.lower() for name in _LAST),
    "domain": ("example.com", "example.org", "example.net"),
    "city": _CITY,
    "state": _STATE,
    "state_code": _STATE_CODE,
    "country": _COUNTRY,
    "country_code": _COUNTRY_CODE,
    "currency": _words("AUD BRL CAD CHF CNY DKK EUR GBP INR JPY KRW MXN NOK NZD SEK USD"),
    "language": _LANGUAGE,
    "street": _STREET,
    "unit": _words("Apt Unit Suite Floor Room"),
    "subject": _SUBJECT,
    "course": ("Introduction to", "Foundations of", "Topics in", "Applied", "Advanced"),
    "department": _DEPARTMENT,
    "item": _ITEM,
    "product": _PRODUCT,
    "adjective": _ADJECTIVE,
    "Adjective": tuple(word.capitalize() for word in _ADJECTIVE),
    "noun": _NOUN,
    "Noun": tuple(word.capitalize() for word in _NOUN),
    "game": _GAME,
    "team": _TEAM,
    "position": _POSITION,
    "achievement": _ACHIEVEMENT,
    "degree": _DEGREE,
    "company": _COMPANY,
    "company_suffix": _SUFFIX,
    "place": _PLACE,
    "job": _JOB,
    "opening": _OPENING,
    "status": _STATUS,
    "color": _COLOR,
    "gender": ("female", "male", "other"),
    "gender_code": ("F", "M", "X"),
    "season": ("Autumn", "Spring", "Summer", "Winter"),
    "school_year": ("2018-19", "2019-20", "2020-21", "2021-22", "2022-23", "2023-24"),
    "grade": _words("A A- B+ B B- C+ C D F"),
    "compass": ("North", "East", "South", "West", "Central", "Airport", "Harbor", "University"),
    "area": tuple(str(code) for code in range(200, 990) if code % 100 != 11),  # area codes end in no 11
    "d1": tuple(string.digits),
    "d2": tuple(f"{i:02d}" for i in range(100)),
    "d3": tuple(f"{i:03d}" for i in range(1000)),
    "a1": tuple(string.ascii_uppercase),
    "z1": tuple(_BASE36),
    "z2": tuple(a + b for a in _BASE36 for b in _BASE36),
    "y2": tuple((a + b).lower() for a in _BASE36 for b in _BASE36),
}

_Z6, _Y6 = "{z2!}{z2!}{z2!}", "{y2!}{y2!}{y2!}"  # 36^6 > 2^31: a number of any row
# per recipe: templates with free words, the fullest first; templates for unique columns, the most readable first
_RECIPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "email": (
        ("{first_low}.{last_low}{d2}@{domain}", "{first_low}{d2}@{domain}"),
        ("{first_low}.{last_low}{d3!}{d3!}@{domain}", f"{{first_low}}.{{last_low}}.{_Y6}@{{domain}}", f"{_Y6}@example.com"),
    ),
    "phone": (
        ("+1-{area}-555-01{d2}", "{area}-555-01{d2}", "{area}55501{d2}", "555-01{d2}"),
        ("+1-{area!}-555-01{d2!}", "{area!}-555-01{d2!}", "{area!}55501{d2!}", f"+1-{{area}}-555-01{{d2}}x{_Z6}", f"555-01{{d2}}x{_Z6}"),
    ),
    "full_name": (("{first} {last}", "{last}"), (f"{{first}} {{last}} {_Z6}",)),
    "username": (("{first_low}_{noun}{d2}", "{first_low}{d2}"), ("{first_low}{d3!}{d3!}", f"{{first_low}}{_Y6}")),
    "postal_code": (("{d3}{d2}",), ("{d3!}{d2!}", "{d3!}{d3!}")),
    "street": (("{d2} {street}", "{street}"), ("{d3!}{d3!} {street}",)),
    "unit": (("{unit} {d2}", "{d2}"), ()),
    "description": (("{opening} {adjective} {noun} and {adjective} {noun}.", "{adjective} {noun}", "{noun}"), ()),
    "url": (
        ("https://www.{domain}/{adjective}-{noun}/{d3}", "https://{domain}/{d3}"),
        ("https://www.{domain}/{noun}/{d3!}{d3!}", f"https://{{domain}}/{_Y6}"),
    ),
    "vehicle": (("{state_code}-{d2}-{a1}{a1}-{d3}", "{state_code}{d3}"), ("{state_code}-{d2}-{d3!}{d3!}", f"{{state_code}}-{_Z6}")),
    "course": (("{course} {subject}", "{subject}"), (f"{{course}} {{subject}} {_Z6}",)),
    "title": (("The {Adjective} {Noun}", "{Adjective} {Noun}", "{Noun}"), (f"The {{Adjective}} {{Noun}} {_Z6}",)),
    "product": (("{Adjective} {product}", "{product}"), (f"{{Adjective}} {{product}} {_Z6}",)),
    "company": (("{company} {company_suffix}", "{company}"), (f"{{company}} {{company_suffix}} {_Z6}",)),
    "team": (("{Adjective} {team}", "{team}"), (f"{{Adjective}} {{team}} {_Z6}",)),
    "route": (("{compass} Line {d1}", "{compass}"), (f"{{compass}} Line {_Z6}",)),
    "phrase": (("{adjective} {noun}", "{noun}"), (f"{{adjective}} {{noun}} {_Z6}",)),
}
_SINGLE = _words(
    """first last city state state_code country country_code currency language department item game position achievement degree place job
    status color gender gender_code season school_year grade subject"""
)
# the first pattern found in a column's name decides
_TEXT_RULES: tuple[tuple[str, str], ...] = (
    ("email", r"e_?mail"),
    ("phone", r"phone|mobile|fax|(^|_)tel(_|$)|contact(_no|_number)?$"),
    ("first", r"(first|given|fore|middle)_?name"),
    ("last", r"(last|family|sur)_?name"),
    ("username", r"user_?name|login|handle|nick_?name"),
    ("vehicle", r"vehicle|plate|registration_(no|number)"),
    ("course", r"(course|class|subject|module)_?(name|title)"),
    ("product", r"product_?(name|title)|(^|_)goods"),
    ("team", r"team"),
    ("route", r"route"),
    ("place", r"pick_?up|drop_?off|(^|_)(place|location|venue|station|stop|point)(_|$)"),
    ("game", r"game|sport"),
    ("unit", r"address_?(line_?)?2|(^|_)(apartment|suite|unit)(_|$)"),
    ("street", r"address|street"),
    ("city", r"city|town|birth_?place"),
    ("state", r"(^|_)(state|province|region|county)(_|$)"),
    ("country", r"country|nationality"),
    ("postal_code", r"postal|post_?code|zip"),
    ("currency", r"currency"),
    ("language", r"language"),
    ("company", r"company|employer|supplier|vendor|organi[sz]ation|brand|manufacturer|publisher|carrier"),
    ("department", r"department|faculty|division"),
    ("degree", r"qualification|degree|education"),
    ("job", r"(^|_)(job|occupation|profession|designation|role)(_|$)"),
    ("position", r"position"),
    ("achievement", r"achievement|award|prize"),
    ("item", r"(^|_)(item|dish|meal|snack|food)(_|$)"),
    ("school_year", r"academic_year|school_year"),
    ("season", r"(^|_)(term|season|semester)(_|$)"),
    ("grade", r"grade"),
    ("subject", r"subject|topic|genre|category"),
    ("gender", r"gender|(^|_)sex(_|$)"),
    ("color", r"colou?r"),
    ("status", r"status"),
    ("url", r"(^|_)(url|uri|link|website|homepage)(_|$)"),
    ("description", r"description|comment|remark|note|summary|details|body|text|message|content|reason|biography|(^|_)bio(_|$)"),
    ("title", r"title|headline|subject_line"),
    ("code", r"code|(^|_)(no|number|num|ref|reference|sku|serial|isbn|barcode|token|key|id|identifier|slug)$|enrol"),
    ("full_name", r"(guardian|driver|author|owner|contact|parent|manager|person|customer|full|father|mother|emergency)\w*_?name|^name$"),
    ("title", r"name"),
)
_PEOPLE = re.compile(r"student|teacher|person|people|user|customer|employee|patient|author|driver|member|owner|guest|staff|contact")


def _snake(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")


def parts(template: str) -> list[tuple[str, bool]]:
    """Split a template into ``(text, is_pool)`` pieces; a pool that numbers rows keeps its ``!``."""
    pieces = re.split(r"\{(\w+!?)\}", template)
    return [(piece, i % 2 == 1) for i, piece in enumerate(pieces) if piece]


def template_length(template: str) -> int:
    """Most characters that a template can give."""
    if template == UUID_TEMPLATE:
        return 36
    return sum(max(map(len, POOLS[piece.rstrip("!")])) if is_pool else len(piece) for piece, is_pool in parts(template))


def template_rows(template: str) -> int:
    """How many rows a template can tell apart (1: none are numbered), at most 2^31."""
    if template == UUID_TEMPLATE:
        return _MOST
    sizes = [len(POOLS[piece[:-1]]) for piece, is_pool in parts(template) if is_pool and piece.endswith("!")]
    return min(math.prod(sizes), _MOST)


def _prefix(name: str) -> str:
    letters = re.sub(r"[^A-Z]", "", _snake(name).split("_")[0].upper())
    return letters[:3] or "X"


def _numbered(pool: str, count: int, mark: str) -> str:
    return f"{{{pool}{mark}}}" * count


def _codes(name: str, length: int | None, exact: bool, mark: str) -> list[str]:
    """Templates of codes, the most readable first: letters and digits, then letters and base-36 figures, then figures alone."""
    prefix = _prefix(name)
    if exact and length is not None:
        figures = min(length, 6)
        found = [prefix[: length - 5] + _numbered("d1", length - len(prefix[: length - 5]), mark)] if 6 <= length <= 12 else []
        filled = (prefix + "0" * length)[: length - figures]
        return [*found, filled + _numbered("z1", figures, mark)]
    found = [f"{prefix}-{_numbered('d3', 2, mark)}", f"{prefix}{_numbered('d3', 2, mark)}", f"{prefix}-{_numbered('z2', 3, mark)}"]
    return [*found, _numbered("z1", min(length or 6, 6), mark)]


def key_template(name: str, type: str, length: int | None) -> str:
    """The template of a text primary key: a function of the declaration alone, so that children write it as their parent does.

    Args:
        name: the key column's name.
        type: its SQL type in canonical form.
        length: its declared length, or None.

    Returns:
        A template; ``char(36)`` holds a uuid, shorter columns a prefix and up to six base-36 figures.
    """
    if type == "char(36)":
        return UUID_TEMPLATE
    if type.startswith("char("):
        return _codes(name, length, True, "!")[-1]
    for template in (f"{_prefix(name)}-{_Z6}", f"{_prefix(name)}{_Z6}"):
        if length is None or template_length(template) <= length:
            return template
    return _numbered("z1", min(length or 6, 6), "!")


def text_template(
    name: str, type: str = "", length: int | None = None, unique: bool = False, rows: int = _MOST, table: str = ""
) -> str | None:
    """Choose how a text column is made.

    Args:
        name: column name.
        type: SQL type in canonical form.
        length: most characters, or None.
        unique: no text may occur twice.
        rows: rows of the table that a unique template must tell apart.
        table: its name, which says whether a bare "name" is a person's.

    Returns:
        A template, or None if no text of this length can be unique in so many rows. A template that is not unique may give
        more characters than ``length`` where none shorter exists; its text is cut.
    """
    word = _snake(name)
    exact = type.startswith("char(") and length is not None
    if exact and length == 36 and re.search(r"uuid|guid|(^|_)(id|key|token)$", word):
        return UUID_TEMPLATE
    recipe = next((recipe for recipe, pattern in _TEXT_RULES if re.search(pattern, word)), "phrase")
    if word == "name" and not _PEOPLE.search(_snake(table)):
        singular = _snake(table).rstrip("s")
        recipe = {"course": "course", "product": "product", "compan": "company", "supplier": "company", "team": "team"}.get(
            singular, "title"
        )
        recipe = {"country": "country", "countrie": "country", "city": "city", "citie": "city", "department": "department"}.get(
            singular, recipe
        )
    if exact and length is not None and length <= 3 and not unique:
        short = {"gender": "gender_code", "state": "state_code", "country": "country_code", "currency": "currency"}.get(recipe)
        if short is not None and template_length(f"{{{short}}}") == length:
            return f"{{{short}}}"
    free, distinct = ((f"{{{recipe}}}",), ()) if recipe in _SINGLE else _RECIPES.get(recipe, ((), ()))
    fitting = [template for template in (*free, *distinct) if recipe == "postal_code" and template_length(template) == length]
    if recipe == "code" or (exact and length is not None and length <= 24 and not fitting):
        free, distinct = tuple(_codes(word, length, exact, "")), ()
    if unique:
        stem = tuple(f"{template} {_Z6}" for template in free if "{z" not in template and "{d" not in template)
        for template in (*distinct, *((*stem,) if not exact else ()), *_codes(word, length, exact, "!")):
            if (length is None or template_length(template) <= length) and template_rows(template) >= rows:
                return template
        return None
    return next((template for template in free if length is None or template_length(template) <= length), free[-1])


@dataclasses.dataclass(frozen=True)
class NumberLaw:
    """What numbers of a name look like: ``curve`` says how a standard normal score is stretched.

    Attributes:
        low: smallest believable value.
        high: largest believable value.
        curve: "flat" (evenly from low to high), "normal" (``centre + spread * v``) or "lognormal" (``centre * exp(spread * v)``).
        centre: mean or median.
        spread: standard deviation, of the logarithm for "lognormal".
    """

    low: float
    high: float
    curve: str = "flat"
    centre: float = 0.0
    spread: float = 1.0


_MONEY = NumberLaw(0.5, 1e6, "lognormal", 80.0, 0.8)
_NUMBER_RULES: tuple[tuple[str, NumberLaw], ...] = (
    (r"birth.*year|year.*birth", NumberLaw(1950, 2012)),
    (r"(^|_)(year|yr)$", NumberLaw(2018, 2024)),
    (r"(^|_)month$", NumberLaw(1, 12)),
    (r"(^|_)(week)?day$", NumberLaw(1, 7)),
    (r"(^|_)hour$", NumberLaw(0, 23)),
    (r"(^|_)age$", NumberLaw(0, 100, "normal", 40, 15)),
    (r"experience|tenure|seniority", NumberLaw(0, 40, "lognormal", 8, 0.7)),
    (r"percent|pct|percentage|discount|weightage|humidity", NumberLaw(0, 100)),
    (r"ratio|probability|fraction|share|(^|_)rate$", NumberLaw(0, 1)),
    (r"(^|_)lat(itude)?$", NumberLaw(-60, 70)),
    (r"(^|_)(lon|lng|long)(gitude)?$", NumberLaw(-180, 180)),
    (r"rating|stars", NumberLaw(1, 5)),
    (r"gpa|grade_?point", NumberLaw(0, 4, "normal", 2.9, 0.6)),
    (r"max_?(score|marks|points)", NumberLaw(20, 100)),
    (r"score|marks|points", NumberLaw(0, 100, "normal", 65, 15)),
    (r"credits?$", NumberLaw(1, 6)),
    (r"salary|income|wage|revenue|turnover|budget", NumberLaw(1000, 1e7, "lognormal", 45000, 0.4)),
    (r"amount|price|cost|fee|total|balance|paid|due|charge|payment|tax|value|spend|bill", _MONEY),
    (r"quantity|qty|(^|_)count|units|num_|number_of|_count$", NumberLaw(1, 50, "lognormal", 3, 0.8)),
    (r"stock|inventory", NumberLaw(0, 1000, "lognormal", 60, 1.0)),
    (r"population|views|visitors|followers", NumberLaw(0, 1e9, "lognormal", 5000, 1.5)),
    (r"capacity|seats", NumberLaw(5, 500, "lognormal", 40, 0.7)),
    (r"height", NumberLaw(120, 215, "normal", 170, 10)),
    (r"weight", NumberLaw(1, 200, "normal", 70, 14)),
    (r"duration|minutes|seconds", NumberLaw(1, 600, "lognormal", 45, 0.7)),
    (r"distance|(^|_)km$|miles", NumberLaw(0.1, 5000, "lognormal", 12, 1.0)),
    (r"temperature|(^|_)temp$", NumberLaw(-30, 50, "normal", 15, 9)),
    (r"level|floor|(^|_)rank|priority", NumberLaw(1, 10)),
)
_BIRTH = re.compile(r"birth|(^|_)dob(_|$)")


def number_law(name: str) -> NumberLaw | None:
    """The law of a number column's name, or None if the name says nothing."""
    word = _snake(name)
    return next((law for pattern, law in _NUMBER_RULES if re.search(pattern, word)), None)


def date_law(name: str) -> tuple[int, int]:
    """First and last believable day of a date or timestamp column (days since 1970-01-01), never in the future."""
    return (-7305, 15705) if _BIRTH.search(_snake(name)) else (16436, 20088)  # 1950…2012, or 2015…2024
