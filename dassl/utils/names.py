"""Class names as people write them: one comparison, one list of spellings, for data sets and for LLM rows."""

import re
import unicodedata

# Spellings that public sets use for one class. The first of each row is only a representative.
SPELLINGS = (
    ("covid", "covid 19", "covid19"),
    ("vascular lesion", "vascular lesions"),
    ("melanocytic nevus", "melanocytic nevi"),
    ("actinic keratosis", "actinic keratoses", "actinic keratoses and intraepithelial carcinoma"),
    ("benign keratosis", "benign keratosis like lesions"),
    ("immature granulocytes", "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
     "immature granulocytes (myelocytes, metamyelocytes and promyelocytes)"),
    ("bacterial pneumonia", "bacteria pneumonia"),
    ("viral pneumonia", "virus pneumonia"),
    ("esophagitis", "oesophagitis"),
    ("normal cecum", "normal caecum"),
    ("sickle cell anemia", "sickle cell anaemia"),
)


def plain(name):
    """A class, folder or part name for comparing: trimmed, lower case, blanks, '_' and '-' alike."""
    return re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFC", str(name))).strip().lower()


_REPRESENTATIVE = {plain(s): row[0] for row in SPELLINGS for s in row}


def spelling_key(name):
    """One key for all known spellings of a class."""
    return _REPRESENTATIVE.get(plain(name), plain(name))
