"""What the annotated documents teach: topics of nature and problems of arithmetic; each split has its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from data.generators.world import Draw, Split


@dataclass(frozen=True)
class Topic:
    """Something to explain in words: what it is, why it is so, how it goes step by step, an example, a question."""

    term: str
    what: str
    why: str
    steps: tuple[str, str, str]
    example: str
    question: str
    answer: str


@dataclass(frozen=True)
class Problem:
    """A worked problem: its rule, the question, each step with its reason, the answer and how to check it."""

    name: str
    rule: str
    question: str
    steps: tuple[tuple[str, str], ...]
    answer: str
    check: str


@dataclass(frozen=True)
class Function:
    """A small function: what it does, the idea, its code with a comment for some lines, and a use with its result.

    `names` are its own names, which careless code would cut to single letters.
    """

    language: str
    name: str
    does: str
    idea: str
    code: tuple[tuple[str, str], ...]
    use: tuple[str, str]
    names: tuple[str, ...]


TOPICS: dict[Split, tuple[Topic, ...]] = {
    "train": (
        Topic(
            "evaporation",
            "Evaporation is the change of a liquid into a gas at its surface.",
            "It happens because the fastest molecules have enough energy to leave the liquid.",
            ("the sun warms the water", "fast molecules break free at the surface", "the vapour mixes with the air"),
            "A wet shirt dries on a line although it never boils.",
            "Why does a puddle vanish faster on a windy day?",
            "Wind carries the vapour away, so more molecules can leave.",
        ),
        Topic(
            "the water cycle",
            "The water cycle is the path of water from sea to sky and back.",
            "It never ends because the sun keeps lifting water and gravity keeps pulling it down.",
            (
                "water evaporates from the sea",
                "the vapour cools and forms clouds",
                "rain falls and rivers carry it home",
            ),
            "The rain on a mountain may have been part of the ocean a week ago.",
            "What drives the water cycle?",
            "The heat of the sun lifts the water, and gravity brings it down.",
        ),
        Topic(
            "photosynthesis",
            "Photosynthesis is the way in which green plants make sugar from light, water and carbon dioxide.",
            "Plants need it because sugar stores the energy that they grow with.",
            (
                "leaves take in carbon dioxide",
                "light splits water into its parts",
                "the plant joins the parts into sugar",
            ),
            "A plant that is kept in a dark cupboard turns pale and stops growing.",
            "Which gas does a plant give off while it makes sugar?",
            "It gives off oxygen, which comes from the water that was split.",
        ),
        Topic(
            "a magnet",
            "A magnet is a body that pulls iron and has two poles.",
            "It pulls because countless tiny magnets inside it point the same way.",
            (
                "each atom of iron acts as a tiny magnet",
                "in most iron they point at random",
                "in a magnet they line up",
            ),
            "A needle that is stroked with a magnet becomes a compass.",
            "What happens when a magnet is cut in two?",
            "Each half has two poles again, because the tiny magnets still line up.",
        ),
        Topic(
            "an echo",
            "An echo is a sound that comes back from a wall or a cliff.",
            "We hear it as a second sound because sound needs time to travel.",
            ("a sound spreads through the air", "it meets a hard surface", "it bounces back to the ear"),
            "A clap in front of a cliff returns half a second later.",
            "How could you measure the distance of a cliff with an echo?",
            "Take the time until it returns, multiply it by the speed of sound, and halve it.",
        ),
        Topic(
            "a shadow",
            "A shadow is a place that light does not reach because something stands in its way.",
            "Shadows have sharp shapes because light travels in straight lines.",
            ("a lamp sends light in all directions", "a body stops some of it", "behind the body it stays dark"),
            "At noon a shadow is short because the sun stands high.",
            "Why are shadows long in the evening?",
            "The sun stands low, so its light passes a body at a flat angle.",
        ),
        Topic(
            "rust",
            "Rust is the brown layer that forms when iron joins with oxygen and water.",
            "It spreads because it is loose and lets air and water reach fresh iron.",
            ("a drop of water lies on iron", "oxygen dissolves in the drop", "iron and oxygen join into rust"),
            "A bicycle that is left in the rain rusts where its paint is scratched.",
            "Why does paint protect iron?",
            "It keeps water and oxygen away from the metal.",
        ),
        Topic(
            "a volcano",
            "A volcano is an opening in the ground from which melted rock rises.",
            "The rock rises because it is lighter than the solid rock around it.",
            ("rock melts deep below", "gas in it pushes it upwards", "it breaks out and cools into new rock"),
            "Some islands are the tops of volcanoes that grew from the sea floor.",
            "What becomes of lava after some time?",
            "It cools and turns into solid rock.",
        ),
        Topic(
            "a food chain",
            "A food chain shows who eats whom, from plants to hunters.",
            "Chains are short because most of the energy is lost at each step.",
            ("grass takes its energy from the sun", "a rabbit eats the grass", "a fox eats the rabbit"),
            "In a pond algae feed small animals, these feed fish, and a heron eats the fish.",
            "What happens to foxes if the rabbits die out?",
            "They find less food, so fewer of them live on.",
        ),
        Topic(
            "the seasons",
            "The seasons are the four parts of the year that differ in warmth and in hours of light.",
            "They come about because the axis of the earth is tilted, not because the sun is nearer in summer.",
            (
                "the earth moves around the sun in a year",
                "one half leans towards the sun",
                "it gets more light and summer",
            ),
            "When it is winter in the north, it is summer in the south.",
            "Would there be seasons if the axis were not tilted?",
            "No, each place would get the same light all year.",
        ),
        Topic(
            "a lever",
            "A lever is a bar that turns about a point and helps to lift a load.",
            "It helps because a small force on a long arm balances a large one on a short arm.",
            ("choose a point on which the bar rests", "put the load near that point", "push far away from it"),
            "A child far from the middle of a seesaw can lift an adult who sits near it.",
            "Where should you hold long scissors to cut thick card with little force?",
            "Hold the handles at their ends, and put the card near the joint.",
        ),
        Topic(
            "the heart",
            "The heart is a muscle that pumps blood through the body.",
            "Blood must keep moving because it brings oxygen to every cell and takes waste away.",
            (
                "blood without oxygen reaches the right side",
                "it is pumped through the lungs",
                "the left side sends it out",
            ),
            "After a run the heart beats faster because the muscles ask for more oxygen.",
            "Why is the left side of the heart stronger than the right side?",
            "It sends blood through the whole body, the right side only to the lungs.",
        ),
    ),
    "dev": (
        Topic(
            "the tides",
            "The tides are the rise and fall of the sea twice a day.",
            "They come about because the moon pulls harder on the water that is nearer to it.",
            ("the moon pulls the sea", "the water bulges on two sides", "the coast turns through both bulges"),
            "A boat that floats at noon may lie on sand at six in the evening.",
            "Why are tides higher at full moon?",
            "Sun and moon pull along one line then, so their pulls add up.",
        ),
        Topic(
            "a rainbow",
            "A rainbow is sunlight that raindrops have split into its colours.",
            "The colours part because each is bent by a different angle.",
            ("light enters a drop and is bent", "it is thrown back inside the drop", "it leaves, bent once more"),
            "A garden hose makes a small rainbow when the sun is behind you.",
            "Where must the sun be for you to see a rainbow?",
            "It must be behind you and low in the sky.",
        ),
        Topic(
            "yeast",
            "Yeast is a tiny fungus that makes dough rise.",
            "Dough rises because yeast eats sugar and gives off carbon dioxide.",
            (
                "yeast is mixed with flour and water",
                "it feeds on the sugar in the flour",
                "bubbles of gas lift the dough",
            ),
            "Dough that stands in a warm place doubles its size in an hour.",
            "Why does bread have holes?",
            "They are the bubbles of gas that the yeast has made.",
        ),
    ),
    "heldout": (
        Topic(
            "condensation",
            "Condensation is the change of a gas into a liquid.",
            "It happens because cool molecules move too slowly to stay apart.",
            ("warm air carries vapour", "the air meets something cold", "the vapour forms drops there"),
            "A cold bottle that is taken from the cellar becomes wet on the outside.",
            "Why do glasses fog up when you enter a warm room in winter?",
            "The lenses are cold, so vapour from the room condenses on them.",
        ),
        Topic(
            "gravity",
            "Gravity is the pull between all bodies that have mass.",
            "We feel that of the earth alone because other bodies near us have too little mass.",
            ("you let go of a stone", "the earth pulls it downwards", "it falls faster each second"),
            "On the moon you could jump six times as high, because its mass is smaller.",
            "Does a heavy stone fall faster than a light one?",
            "No, without air both fall alike, as the heavier one is also harder to move.",
        ),
        Topic(
            "a seed",
            "A seed is a young plant with a store of food inside a hard coat.",
            "It can wait for months because it hardly lives until water wakes it.",
            ("water softens the coat", "a root grows downwards", "a shoot grows towards the light"),
            "Beans on wet cotton show their first root after three days.",
            "Why does a seed need no light until it has leaves?",
            "It lives on its own store of food until then.",
        ),
        Topic(
            "erosion",
            "Erosion is the wearing away of rock and soil by water, wind and ice.",
            "It is slow because each grain that is carried off is small.",
            ("rain loosens grains of soil", "streams carry them downhill", "they settle where the water is calm"),
            "A river has cut its valley over many thousand years.",
            "How do trees protect a slope?",
            "Their roots hold the soil, and their leaves slow the rain.",
        ),
    ),
}


def _share(draw: Draw) -> Problem:
    whole, tenth = draw.number(2, 9) * 100, draw.number(1, 9)
    part = whole * tenth // 10
    return Problem(
        "percentages",
        "A percentage is a share of a hundred: p % of a number is the number times p, divided by 100.",
        f"{tenth * 10} % of {whole} pupils walk to school. How many pupils are that?",
        (
            (
                f"1 % of {whole} is {whole} / 100 = {whole // 100}",
                "because one percent is one of a hundred equal parts",
            ),
            (f"{tenth * 10} % is {tenth * 10} × {whole // 100} = {part}", "because it is that many of these parts"),
        ),
        f"{part} pupils",
        f"{part} / {whole} = {tenth}/10, which is {tenth * 10} %.",
    )


def _equation(draw: Draw) -> Problem:
    a, x, b = draw.number(2, 9), draw.number(2, 12), draw.number(1, 20)
    return Problem(
        "linear equations",
        "An equation stays true when both sides change in the same way, so undo what was done to x, last step first.",
        f"Solve {a}x + {b} = {a * x + b}.",
        (
            (f"{a}x = {a * x + b} - {b} = {a * x}", f"because taking {b} from both sides leaves only the term with x"),
            (f"x = {a * x} / {a} = {x}", f"because dividing both sides by {a} leaves x alone"),
        ),
        f"x = {x}",
        f"{a} · {x} + {b} = {a * x + b}, as it should be.",
    )


def _area(draw: Draw) -> Problem:
    a, b = draw.number(3, 15), draw.number(3, 15)
    return Problem(
        "areas of rectangles",
        "The area of a rectangle is its length times its width, since that counts the unit squares row by row.",
        f"A garden is {a} m long and {b} m wide. How large is it?",
        (
            (f"one row holds {a} squares of 1 m²", "because the garden is that many metres long"),
            (f"{b} rows hold {b} · {a} = {a * b} squares", "because there is one row for each metre of its width"),
        ),
        f"{a * b} m²",
        f"{a * b} / {b} = {a}, which is the length again.",
    )


def _speed(draw: Draw) -> Problem:
    hours, speed = draw.number(2, 6), draw.number(3, 12) * 10
    return Problem(
        "speed",
        "Speed is the distance divided by the time that it takes.",
        f"A train covers {hours * speed} km in {hours} hours. How fast is it?",
        (
            (f"distance / time = {hours * speed} / {hours}", "because speed says how far it gets in one hour"),
            (f"{hours * speed} / {hours} = {speed}", f"because {hours} · {speed} = {hours * speed}"),
        ),
        f"{speed} km/h",
        f"In {hours} hours at {speed} km/h it covers {hours * speed} km.",
    )


def _mean(draw: Draw) -> Problem:
    middle, step = draw.number(6, 20), draw.number(1, 5)
    numbers = [middle - step, middle, middle + step]
    return Problem(
        "averages",
        "The average of some numbers is their sum divided by how many there are: it shares the sum out evenly.",
        f"What is the average of {numbers[0]}, {numbers[1]} and {numbers[2]}?",
        (
            (f"{numbers[0]} + {numbers[1]} + {numbers[2]} = {3 * middle}", "because first everything is put together"),
            (f"{3 * middle} / 3 = {middle}", "because then it is shared out among three"),
        ),
        str(middle),
        f"Three times {middle} is {3 * middle}, the same sum.",
    )


def _fraction(draw: Draw) -> Problem:
    a, b = draw.number(2, 5), draw.number(6, 9)
    return Problem(
        "adding fractions",
        "Fractions can be added once they have the same denominator, because only equal parts can be counted together.",
        f"Compute 1/{a} + 1/{b}.",
        (
            (f"1/{a} = {b}/{a * b} and 1/{b} = {a}/{a * b}", f"because {a} · {b} = {a * b} is a multiple of both"),
            (f"{b}/{a * b} + {a}/{a * b} = {a + b}/{a * b}", "because parts of one size are counted"),
        ),
        f"{a + b}/{a * b}",
        f"{(a + b) / (a * b):.3f} is about {1 / a:.3f} + {1 / b:.3f}.",
    )


def _power(draw: Draw) -> Problem:
    base, n = draw.number(2, 5), draw.number(2, 4)
    return Problem(
        "powers",
        "A power is a product of equal factors; powers of one base are multiplied by adding their exponents.",
        f"Write {base}^{n} · {base}^2 as one power.",
        (
            (f"{base}^{n} has {n} factors and {base}^2 has 2", "because the exponent counts the factors"),
            (f"{base}^{n} · {base}^2 = {base}^{n + 2}", f"because together there are {n} + 2 factors"),
        ),
        f"{base}^{n + 2} = {base ** (n + 2)}",
        f"{base**n} · {base**2} = {base ** (n + 2)}.",
    )


def _angle(draw: Draw) -> Problem:
    a, b = draw.number(3, 8) * 10, draw.number(3, 8) * 10
    return Problem(
        "angles of a triangle",
        "The three angles of a triangle always add up to 180°, because they fit together along a straight line.",
        f"Two angles of a triangle are {a}° and {b}°. Find the third.",
        (
            (f"{a}° + {b}° = {a + b}°", "because what both take is known"),
            (f"180° - {a + b}° = {180 - a - b}°", "because the rest belongs to the third angle"),
        ),
        f"{180 - a - b}°",
        f"{a} + {b} + {180 - a - b} = 180.",
    )


def _ratio(draw: Draw) -> Problem:
    a, b, k = draw.number(1, 4), draw.number(5, 9), draw.number(3, 12)
    return Problem(
        "ratios",
        "To share something in a ratio, count the parts, find the size of one, and give each side its parts.",
        f"Share {k * (a + b)} coins in the ratio {a} : {b}.",
        (
            (f"{a} + {b} = {a + b} parts, one part is {k * (a + b)} / {a + b} = {k}", "because all parts are equal"),
            (f"{a} · {k} = {a * k} and {b} · {k} = {b * k}", "because each side gets its number of parts"),
        ),
        f"{a * k} and {b * k} coins",
        f"{a * k} + {b * k} = {k * (a + b)}.",
    )


PROBLEMS: dict[Split, tuple[Callable[[Draw], Problem], ...]] = {
    "train": (_share, _equation, _area, _speed, _mean),
    "dev": (_fraction, _power),
    "heldout": (_angle, _ratio),
}
