"""Try ever new input on one of the properties of the readers and editors, guided by coverage: fuzz.py PROPERTY DIRECTORY [libFuzzer's options]

The input that breaks it is left in DIRECTORY/PROPERTY.crash-…, to be kept in tests/fuzz/found/PROPERTY (as base64), where the unit tests find it.
"""

from __future__ import annotations

import base64
import pathlib
import sys

import atheris

TESTS = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / 'unit' / 'plugins' / 'module_utils'))

with atheris.instrument_imports(include=['ansible_collections']):
    import fuzzing


def main() -> None:
    name, directory, *options = sys.argv[1:]
    corpus = pathlib.Path(directory, name)
    corpus.mkdir(parents=True, exist_ok=True)
    known = [path.read_bytes() for path in (TESTS / 'corpus' / name).rglob('*') if path.is_file()]
    known += [base64.b64decode(path.read_bytes()) for path in (TESTS / 'fuzz' / 'found' / name).glob('*')]
    for number, seed in enumerate([*fuzzing.SEEDS[name], *known]):
        (corpus / ('seed-%d' % number)).write_bytes(seed)
    dictionary = pathlib.Path(__file__).with_name(name + '.dict')
    words = ['-dict=%s' % dictionary] if dictionary.exists() else []
    atheris.Setup([sys.argv[0], str(corpus), '-artifact_prefix=%s.' % corpus, '-timeout=20', '-rss_limit_mb=4096', *words, *options], fuzzing.PROPERTIES[name])
    atheris.Fuzz()


if __name__ == '__main__':
    main()
