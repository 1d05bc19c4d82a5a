"""A person's own past: conversations that other programs kept, read and brought in."""

from memopt.past.bringing import Bringer as Bringer
from memopt.past.files import Source as Source
from memopt.past.files import size_of as size_of
from memopt.past.files import sources as sources
from memopt.past.formats import Format as Format
from memopt.past.formats import detected as detected
from memopt.past.formats import read as read
from memopt.past.projects import project_of as project_of
from memopt.past.records import Brought as Brought
from memopt.past.records import Damage as Damage
from memopt.past.room import Room as Room
