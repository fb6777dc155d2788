"""Elements of an XML file with their attributes and the lines on which they begin, read without entities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from utils.errors import DinolithError
from utils.runtime.reading import UTF16

MAX_DEPTH = 100  # of elements inside each other; labels have five
MOST_ELEMENTS = 500_000  # that are held at once: of one picture, where pictures are taken one by one


class XmlError(ValueError):
    """XML that cannot be read; the text begins with the line.

    Examples
    --------
    >>> str(XmlError("2: not XML"))
    '2: not XML'
    """


@dataclass(slots=True)
class Element:
    r"""An element: its name, the line on which it begins, its text, its attributes and what is inside it.

    Examples
    --------
    >>> [size] = parse_xml("<a>\n<size unit='px'><width> 6 </width></size></a>").find_all("size")
    >>> size.line, size.text_of("width"), size.text_of("height"), size.attributes
    (2, '6', None, {'unit': 'px'})
    """

    name: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)

    def find_all(self, name: str) -> Iterator[Element]:
        r"""The elements of a name directly inside this one.

        Examples
        --------
        >>> [part.line for part in parse_xml("<a><b/><c><b/></c>\n<b/></a>").find_all("b")]
        [1, 2]
        """
        return (child for child in self.children if child.name == name)

    def find(self, name: str) -> Element | None:
        """The first element of a name directly inside this one.

        Examples
        --------
        >>> parse_xml("<a><b/></a>").find("c") is None
        True
        """
        return next(self.find_all(name), None)

    def text_of(self, name: str) -> str | None:
        """Text of the first element of a name, without spaces around it; None where it is missing or empty.

        Examples
        --------
        >>> element = parse_xml("<a><b> x </b><c/></a>")
        >>> element.text_of("b"), element.text_of("c"), element.text_of("d")
        ('x', None, None)
        """
        found = self.find(name)
        return None if found is None else found.text.strip() or None


def parse_xml(text: str | bytes, visit: Callable[[Element], object] | None = None) -> Element:
    r"""Read the elements of an XML file; comments and names of namespaces are left out.

    Parameters
    ----------
    text : str or bytes
        The file; bytes are decoded as their byte order mark or XML declaration says.
    visit : callable, optional
        Gets each element right inside the outermost one as it ends; it is not kept, so that a large file fits.

    Returns
    -------
    Element
        The outermost one.

    Raises
    ------
    XmlError
        If it is not XML, declares entities (they can grow to fill the memory, or name other files), is nested too
        deeply, or holds too many elements at once. The message begins with the line.

    Examples
    --------
    >>> parse_xml("<a><b>1</b></a>").text_of("b")
    '1'
    >>> parse_xml('<?xml version="1.0" encoding="UTF-16"?><a><b>ü</b></a>'.encode("utf-16")).text_of("b")
    'ü'
    >>> parse_xml("<a>\n<b/><c/></a>", lambda element: print(element.name, element.line)).children
    b 2
    c 2
    []
    >>> parse_xml("<a>\n<b></a>")
    Traceback (most recent call last):
        ...
    utils.formats.elements.XmlError: 2: not XML (mismatched tag)
    >>> parse_xml('<!DOCTYPE a [<!ENTITY b "boom">]><a>&b;</a>')
    Traceback (most recent call last):
        ...
    utils.formats.elements.XmlError: 1: declares an entity, which labels do not need; remove the declaration
    """
    top, open_elements, held = Element("", 0), list[Element](), 0
    texts = list[list[str]]()  # pieces of each open element: adding to its text would copy that every time
    is_utf16 = isinstance(text, bytes) and text.startswith(UTF16)
    parser = expat.ParserCreate("utf-16" if is_utf16 else None)  # whatever a declaration says that was not adapted
    parser.buffer_text = True

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal held
        held += 1
        if held > MOST_ELEMENTS:
            raise XmlError(f"{parser.CurrentLineNumber}: more than {MOST_ELEMENTS} elements; divide the file")
        if len(open_elements) >= MAX_DEPTH:
            raise XmlError(f"{parser.CurrentLineNumber}: more than {MAX_DEPTH} elements inside each other")
        element = Element(name, parser.CurrentLineNumber, attributes=attributes)
        (open_elements[-1] if open_elements else top).children.append(element)
        open_elements.append(element)
        texts.append([])

    def end(name: str) -> None:
        nonlocal held
        open_elements.pop().text = "".join(texts.pop())
        if visit is not None and len(open_elements) == 1:
            visit(open_elements[0].children.pop())
            held = 1

    def add_text(data: str) -> None:
        texts[-1].append(data)

    def refuse(*declaration: object) -> None:
        line = parser.CurrentLineNumber
        raise XmlError(f"{line}: declares an entity, which labels do not need; remove the declaration")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = add_text
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise XmlError(f"{error.lineno}: not XML ({expat.ErrorString(error.code)})") from None
    except (XmlError, DinolithError):
        raise
    except (LookupError, ValueError) as error:  # an encoding that Python or the parser does not know
        raise XmlError(f"1: not XML that can be read ({error}); save it as UTF-8") from None
    return top.children[0]
