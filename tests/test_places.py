"""YAML that knows where it stands: one line of error for whatever is wrong with it."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tproxy import places
from tproxy.places import ConfigError, Key

FILE = Path("/etc/x.yaml")
A = Key("a", places.text)
B = Key("b.c", places.text, "b's default")
KEYS = (A, B)


def read(reader, yaml):
    """What a reader makes of the value of a."""
    key = Key("a", reader)
    return places.gather(places.compose(f"a: {yaml}", FILE), (key,))[key]


class ComposeTests(SynchronousTestCase):
    """A text is one YAML document, or one error that names file and line."""

    def wrong(self, text):
        return str(self.assertRaises(ConfigError, places.compose, text, FILE))

    def test_no_yaml(self):
        """The line is the one where reading failed."""
        for text, message in {
            "a: 1\nb: [1": "/etc/x.yaml:2: is no YAML: expected ',' or ']', but got '<stream end>'",
            "a: 1\nb: *x": "/etc/x.yaml:2: is no YAML: found undefined alias 'x'",
            "a: 1\n---\nb: 1": "/etc/x.yaml:2: is no YAML: but found another document",
            "a: 1\nb: \x01": "/etc/x.yaml:2: is no YAML: it holds a character that YAML does not allow",
            'a: 1\nb: "\\Uffffffff"': "/etc/x.yaml:2: is no YAML: a number is out of range",
            f"%YAML {'9' * 5000}.1\n---\na": "/etc/x.yaml:1: is no YAML: a number is out of range",
            "a: 1\nb: " + "[" * 5000: "/etc/x.yaml:2: is nested too deeply",
        }.items():
            with self.subTest(text=text[:30]):
                self.assertEqual(self.wrong(text), message)

    def test_nothing_is_constructed(self):
        """A tag that would make an object of Python is a value of the wrong type, no more."""
        error = self.assertRaises(ConfigError, read, places.text, '!!python/object/apply:os.system ["true"]')
        self.assertEqual(str(error), "/etc/x.yaml:1: a: a list is not a text")
        error = self.assertRaises(ConfigError, read, places.text, "!!python/name:os.system x")
        self.assertEqual(str(error), "/etc/x.yaml:1: a: 'x' is not a text; put it in quotes")

    @given(st.text(alphabet=st.sampled_from("ab:{}[],&*!|>%@`'\"#-?\\ \n\t0.<~é\x00\ud800U")))
    @settings(deadline=None)
    def test_any_text(self, text):
        """Whatever the text, there is a value or one line of error."""
        try:
            list(places.gather(places.compose(text, FILE), KEYS).places)
        except ConfigError as error:
            self.assertEqual(len(str(error).splitlines()), 1, str(error))


class ReaderTests(SynchronousTestCase):
    """Each reader takes what it should and says what it takes instead of the rest."""

    def wrong(self, reader, yaml):
        message = str(self.assertRaises(ConfigError, read, reader, yaml))
        self.assertTrue(message.startswith("/etc/x.yaml:1: a"), message)
        return message.removeprefix("/etc/x.yaml:1: a").removeprefix(": ")

    def test_text(self):
        """Texts are strings on one line; what YAML reads as something else wants quotes."""
        for yaml, text in {"x": "x", "'5'": "5", '"a b"': "a b", "ä": "ä", "127.0.0.1": "127.0.0.1"}.items():
            self.assertEqual(read(places.text, yaml), text)
        for yaml in ("5", "1.5", "yes", "true", "2001-01-01", "0x10"):
            self.assertEqual(self.wrong(places.text, yaml), f"'{yaml}' is not a text; put it in quotes")
        for yaml, shown in {"": "nothing", "~": "nothing", "[x]": "a list", "{x: y}": "a mapping"}.items():
            self.assertEqual(self.wrong(places.text, yaml), f"{shown} is not a text")
        for yaml, shown in {'""': "''", '" x"': "' x'", '"x\\0"': r"'x\x00'", '"x\\ny"': r"'x\ny'"}.items():
            self.assertEqual(
                self.wrong(places.text, yaml), f"{shown} is empty, has a space at an end or holds a control character"
            )

    def test_one_of(self):
        """A word of a few, in its very case unless that does not matter."""
        self.assertEqual(read(places.one_of("on", "off"), "on"), "on")
        self.assertEqual(read(places.one_of("on", "off", folded=True), "OFF"), "off")
        for yaml, shown in {"ON": "'ON'", "": "nothing", "[on]": "a list", "{on: off}": "a mapping"}.items():
            self.assertEqual(self.wrong(places.one_of("on", "off"), yaml), f"{shown} is not one of on, off")

    def test_truth(self):
        """True and false, and none of YAML's other spellings."""
        self.assertIs(read(places.truth, "true"), True)
        self.assertIs(read(places.truth, "false"), False)
        for yaml, shown in {"yes": "'yes'", "'true'": "'true'", "1": "'1'", "": "nothing", "[true]": "a list"}.items():
            self.assertEqual(self.wrong(places.truth, yaml), f"{shown} is neither true nor false (without quotes)")

    def test_whole(self):
        """Decimal numbers within bounds."""
        for yaml, number in {"0": 0, "1": 1, "20": 20}.items():
            self.assertEqual(read(places.whole(0, 20), yaml), number)
        for yaml in ("21", "999999999"):
            self.assertEqual(self.wrong(places.whole(0, 20), yaml), f"{yaml} is not from 0 to 20")
        for yaml, shown in {
            "'5'": "'5'",
            "1.0": "'1.0'",
            "010": "'010'",
            "0x1": "'0x1'",
            "1_0": "'1_0'",
            "1:10": "'1:10'",
            "-1": "'-1'",
            "+1": "'+1'",
            "!!int x": "'x'",
            "9" * 5000: repr("9" * 59 + "…"),
            "": "nothing",
            "[1]": "a list",
        }.items():
            self.assertEqual(self.wrong(places.whole(0, 20), yaml), f"{shown} is not a whole number from 0 to 20")

    def test_path(self):
        """Relative paths start at the file's folder."""
        self.assertEqual(read(places.path, "d/e"), Path("/etc/d/e"))
        self.assertEqual(read(places.path, "/d"), Path("/d"))

    def test_path_of_relative_file(self):
        """The path is absolute even if the file's is not."""
        key = Key("a", places.path)
        self.assertEqual(places.gather(places.compose("a: b", Path("x.yaml")), (key,))[key], Path.cwd() / "b")

    def test_host(self):
        """Hosts come in their one spelling."""
        self.assertEqual(read(places.host, "Mail.Example."), "mail.example")
        self.assertIn("'mail:1' holds a port", self.wrong(places.host, "mail:1"))

    def test_subdomain(self):
        """One label."""
        self.assertEqual(read(places.subdomain, "acme"), "acme")
        self.assertIn("'a.b' is no subdomain", self.wrong(places.subdomain, "a.b"))

    def test_address(self):
        """An IP address, no name."""
        self.assertEqual(read(places.address, "127.0.0.1"), "127.0.0.1")
        self.assertEqual(read(places.address, "'0:0::1'"), "::1")
        self.assertEqual(
            self.wrong(places.address, "localhost"), "'localhost' is not an IP address, such as 127.0.0.1 or ::1"
        )

    def test_network(self):
        """A network with its prefix, or one address; a prefix that cuts bits off gets the right one told."""
        for yaml in ("127.0.0.0/8", "10.1.2.3", "'fd00::/8'", "0.0.0.0/0"):
            self.assertEqual(str(read(places.network, yaml)).removesuffix("/32"), yaml.strip("'"))
        self.assertEqual(
            self.wrong(places.network, "10.1.2.3/8"), "'10.1.2.3/8' has bits set behind its prefix; write 10.0.0.0/8"
        )
        self.assertEqual(self.wrong(places.network, "10/8"), "'10/8' is not a network, such as 10.0.0.0/8 or fd00::/8")

    def test_several(self):
        """Lists name the item that is wrong."""
        self.assertEqual(read(places.several(places.text), "[x, y]"), ("x", "y"))
        self.assertEqual(read(places.several(places.text), "[]"), ())
        self.assertEqual(read(places.distinct(places.text), "[x, y, x]"), {"x", "y"})
        self.assertEqual(self.wrong(places.several(places.text), "[x, 5]"), "[1]: '5' is not a text; put it in quotes")
        self.assertEqual(self.wrong(places.several(places.text), "x"), "'x' is not a list")
        self.assertEqual(self.wrong(places.several(places.text), ""), "nothing is not a list")

    def test_aliases(self):
        """An alias stands for its value."""
        found = places.gather(places.compose("a: &x v\nb: {c: *x}", FILE), KEYS)
        self.assertEqual((found[A], found[B]), ("v", "v"))


class GatherTests(SynchronousTestCase):
    """A mapping says known things once."""

    def wrong(self, yaml, keys=KEYS):
        return str(self.assertRaises(ConfigError, places.gather, places.compose(yaml, FILE), keys))

    def test_found(self):
        """Values by key, defaults for what is not said."""
        found = places.gather(places.compose("a: x\nb:\n  c: y\n", FILE), KEYS)
        self.assertEqual((found[A], found[B]), ("x", "y"))
        self.assertIn(B, found)
        found = places.gather(places.compose("a: x\n", FILE), KEYS)
        self.assertEqual(found[B], "b's default")
        self.assertNotIn(B, found)

    def test_empty_sections(self):
        """A section whose lines are all commented out says nothing."""
        self.assertEqual(places.gather(places.compose("a: x\nb:\n#  c: y\n", FILE), KEYS)[B], "b's default")
        self.assertEqual(places.gather(places.compose("# nothing\n", FILE), KEYS)[B], "b's default")

    def test_missing(self):
        """The line is that of the innermost section that is there."""
        inner = Key("b.d.e", places.text)
        for yaml, line in {"": 1, "\n\nb:\n  c: x": 3, "\nb:\n  c: x\n  d:\n": 4, "\nb:\n  c: x\n  d: {}\n": 4}.items():
            found = places.gather(places.compose(yaml, FILE), (B, inner))
            error = self.assertRaises(ConfigError, lambda found=found: found[inner])
            self.assertEqual(str(error), f"/etc/x.yaml:{line}: b.d.e: is missing")

    def test_unknown(self):
        """An unknown key gets the one told that was probably meant, or those that are known."""
        for yaml, message in {
            "a: x\nB: 1": "/etc/x.yaml:2: B: unknown key; did you mean b?",
            "c: 1": "/etc/x.yaml:1: c: unknown key; did you mean b.c?",
            "a: x\nb:\n  cc: 1": "/etc/x.yaml:3: b.cc: unknown key; known here are c",
            "b:\n  a: 1": "/etc/x.yaml:2: b.a: unknown key; did you mean a?",
            "b.c: x": "/etc/x.yaml:1: 'b.c': unknown key; known here are a, b",
            "zz: 1": "/etc/x.yaml:1: zz: unknown key; known here are a, b",
            "<<: {a: x}": "/etc/x.yaml:1: '<<': unknown key; known here are a, b",
            "'a\\nb': 1": "/etc/x.yaml:1: 'a\\\\nb': unknown key; known here are a, b",
            "1: 1": "/etc/x.yaml:1: 1: unknown key; known here are a, b",
            f"{'z' * 100}: 1": f"/etc/x.yaml:1: '{'z' * 59}…': unknown key; known here are a, b",
        }.items():
            with self.subTest(yaml=yaml):
                self.assertEqual(self.wrong(yaml), message)

    def test_twice(self):
        """A repeated key is an error, not a silent choice."""
        self.assertEqual(
            self.wrong("a: x\nb: {c: x}\na: x\n"), "/etc/x.yaml:3: a: is there twice; the first is in line 1"
        )
        self.assertEqual(
            self.wrong("b:\n  c: x\n  c: x\n"), "/etc/x.yaml:3: b.c: is there twice; the first is in line 2"
        )
        self.assertEqual(
            self.wrong("b: {c: x}\nb: {c: x}\n"), "/etc/x.yaml:2: b: is there twice; the first is in line 1"
        )

    def test_no_mapping(self):
        """Where keys belong, nothing else will do."""
        self.assertEqual(self.wrong("- a\n"), "/etc/x.yaml:1: a list is not a mapping")
        self.assertEqual(self.wrong("a: x\nb: c\n"), "/etc/x.yaml:2: b: 'c' is not a mapping")
        self.assertEqual(self.wrong("a: x\n? [a]\n: b\n"), "/etc/x.yaml:2: a list or mapping cannot be a key")

    def test_contains_itself(self):
        """A mapping that contains itself ends with what it says of itself."""
        self.assertEqual(self.wrong("&x\na: v\nb: *x\n"), "/etc/x.yaml:2: b.a: unknown key; did you mean a?")
