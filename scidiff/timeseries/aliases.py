"""The same variable under other names: abbreviations, names in words, LOINC codes."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Canonical names are those of PhysioNet 2012. A LOINC code names the usual specimen and unit of a measurement.
_NAMES = {
    "ALP": "alkaline phosphatase, alk phos, 6768-6",
    "ALT": "alanine aminotransferase, alanine transaminase, sgpt, 1742-6",
    "AST": "aspartate aminotransferase, aspartate transaminase, sgot, 1920-8",
    "Albumin": "alb, 1751-7",
    "BUN": "blood urea nitrogen, urea nitrogen, 3094-0",
    "Bilirubin": "total bilirubin, bilirubin total, tbili, 1975-2",
    "Cholesterol": "total cholesterol, cholesterol total, chol, 2093-3",
    "Creatinine": "serum creatinine, creat, crea, 2160-0",
    "DiasABP": "diastolic arterial blood pressure, arterial diastolic, abp diastolic, abpd, 76213-7",
    "FiO2": "fraction of inspired oxygen, inspired oxygen fraction, 3150-6, 19996-8",
    "GCS": "glasgow coma scale, glasgow coma score, gcs total, 9269-2",
    "Glucose": "blood glucose, glu, 2345-7",
    "HCO3": "bicarbonate, serum bicarbonate, 1963-8",
    "HCT": "hematocrit, haematocrit, 4544-3, 20570-8",
    "HR": "heart rate, heartrate, pulse rate, 8867-4",
    "K": "potassium, serum potassium, 2823-3, 6298-4",
    "Lactate": "lactic acid, lact, 2524-7, 32693-4",
    "MAP": "mean arterial pressure, mean arterial blood pressure, abp mean, abpm, 8478-0, 76214-5",
    "MechVent": "mechanical ventilation, ventilated",
    "Mg": "magnesium, serum magnesium, 19123-9, 2601-3",
    "NIDiasABP": "non invasive diastolic blood pressure, nibp diastolic, nbpd, dbp, diastolic blood pressure, 8462-4",
    "NIMAP": "non invasive mean arterial pressure, nibp mean, nbpm, 76536-2",
    "NISysABP": "non invasive systolic blood pressure, nibp systolic, nbps, sbp, systolic blood pressure, 8480-6",
    "Na": "sodium, serum sodium, 2951-2, 2947-0",
    "PaCO2": "pco2, partial pressure of carbon dioxide, 2019-8",
    "PaO2": "po2, partial pressure of oxygen, 2703-7",
    "Platelets": "platelet count, plt, 777-3",
    "RespRate": "respiratory rate, respiration rate, resp rate, resp, rr, 9279-1",
    "SaO2": "oxygen saturation, o2 saturation, spo2, o2sat, 2708-6, 59408-5",
    "SysABP": "systolic arterial blood pressure, arterial systolic, abp systolic, abps, 76215-2",
    "Temp": "temperature, body temperature, temp c, temperature c, 8310-5",
    "TroponinI": "troponin i, cardiac troponin i, trop i, 10839-9",
    "TroponinT": "troponin t, cardiac troponin t, trop t, 6598-7",
    "Urine": "urine output, urine volume, 9192-6, 9187-6",
    "WBC": "white blood cell count, white blood cells, leukocytes, leucocytes, 6690-2, 26464-8",
    "Weight": "body weight, weight kg, 29463-7, 3141-9",
    "pH": "blood ph, arterial ph, 2744-1",
}
_SYSTEM = re.compile(r"^(loinc|ln)\W+", re.IGNORECASE)  # of a code, as MEDS writes it: LOINC//8867-4


def _plain(name: str) -> str:
    """A name without case, blanks and signs; of a code the digits and the hyphen stay."""
    name = _SYSTEM.sub("", name.strip())
    return name if re.fullmatch(r"\d+-\d", name) else re.sub(r"[^0-9a-z]", "", name.casefold())


_CANONICAL = {
    _plain(alias): _plain(name) for name, words in _NAMES.items() for alias in (name, *words.split(", "))
}  # fmt: skip


def canonical(name: str) -> str:
    """What all names of a variable have in common: `HR`, `heart rate` and `LOINC//8867-4` give the same."""
    plain = _plain(name)
    return _CANONICAL.get(plain, plain)


def match(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """The known variable that each name means, for those that have one: {name: known}.

    The very name goes first, then other names of it. No known variable is taken twice.

    Args:
        names: of a table.
        known: of a model.
    """
    names, known = list(names), list(known)
    found = {name: name for name in names if name in known}
    free: dict[str, str] = {}
    for name in known:
        if name not in found:
            free.setdefault(canonical(name), name)
    for name in names:
        if name not in found and canonical(name) in free:
            found[name] = free.pop(canonical(name))
    return {name: found[name] for name in names if name in found}
