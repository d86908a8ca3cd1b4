# Copyright (c) 2026, the seamless.tls_alpn authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx configuration of the documentation site (`make docs`).

The source folder has the layout of the repository, so that the links between its Markdown files hold on the site as they do on GitHub. Beside
them stands `reference/`, which antsibull-docs makes from the modules and the argument_specs of the roles.
"""

from __future__ import annotations

import html
import pathlib
import posixpath
import re

import mermaidx
import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

GALAXY = yaml.safe_load((pathlib.Path(__file__).parent.parent / 'galaxy.yml').read_text())

project = 'seamless.tls_alpn'
author = ', '.join(GALAXY['authors'])
project_copyright = '2026, the seamless.tls_alpn authors'
version = release = str(GALAXY['version'])

extensions = ['myst_parser', 'sphinx_antsibull_ext']
exclude_patterns = ['reference/environment_variables.rst']  # there are none
root_doc = 'docs/index'
myst_heading_anchors = 3
myst_fence_as_directive = {'mermaid'}
# Module paths, options and directives are no English: no quotes or dashes made of their characters.
smartquotes = False

html_theme = 'furo'
html_title = 'seamless.tls_alpn %s' % version
html_copy_source = False
html_static_path = ['site.css']
html_css_files = ['site.css']

# Where the reference leads out to Ansible's own documentation (intersphinx would need the network for it).
ANSIBLE = 'https://docs.ansible.com/ansible/latest/'
ANSIBLE_PAGES = {
    'action_plugins': 'plugins/action.html',
    'ansible_collections.ansible.builtin.get_url_module': 'collections/ansible/builtin/get_url_module.html',
    'common_return_values': 'reference_appendices/common_return_values.html',
}

NAVIGATION = """
```{toctree}
:hidden:
:caption: Use
Tutorial <tutorial>
playbooks
how-it-works
compatibility
troubleshooting
migrating
```

```{toctree}
:hidden:
:caption: Servers
haproxy
apache
```

```{toctree}
:hidden:
:caption: Reference
/reference/index
Role nginx </roles/nginx/README>
Role haproxy </roles/haproxy/README>
Role apache </roles/apache/README>
Role acme_sh </roles/acme_sh/README>
```

```{toctree}
:hidden:
:caption: Trust
security
reliability
%s```

```{toctree}
:hidden:
:caption: Contributing
architecture
/CONTRIBUTING
Release notes </CHANGELOG>
```
"""


class Mermaid(SphinxDirective):
    """A picture drawn from text, as GitHub does it, when the site is built; browsers run no script for it and fetch nothing."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Give the picture as SVG in the page; the identifiers in it are the page's own."""
        identifier = 'picture-%d' % self.env.new_serialno('picture')
        svg = mermaidx.render('\n'.join(self.content), theme='neutral').svg().replace('my-svg', identifier)
        return [nodes.raw('', '<div class="picture">%s</div>' % svg, format='html')]


def adapt_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Lead links to what is no page of the site to where it is, and give the index its navigation."""

    def lead(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(docname), match['path']))
        page = posixpath.splitext(path)[0]
        if page in app.env.found_docs:
            return match[0]
        if path.startswith('plugins/modules'):
            return '](/reference/%s.rst' % (posixpath.basename(page) + '_module' if path.endswith('.py') else 'index')
        return ']({repository}/blob/main/{path}'.format(repository=GALAXY['repository'], path=path)

    if docname.startswith('reference/'):
        text = source[0].replace('Seamless.Tls_Alpn\n', 'Modules and roles\n')
        # Short names in titles and at the side, and no contents beside those that Furo makes.
        text = re.sub(r'^(?:seamless\.tls_alpn\.)?(\w+ (?:module|role)|Entry point ``main``) -- ', r'\1 – ', text, flags=re.MULTILINE)
        text = re.sub(r'^    (\w+)_(module|role)$', r'    \1 \2 <\1_\2>', text, flags=re.MULTILINE)
        source[0] = re.sub(r'^\.\. contents::\n(?:   .+\n)+', '', text, flags=re.MULTILINE)
        return
    source[0] = re.sub(r'\]\((?P<path>[\w./-]+)(?=[#)])', lead, source[0])
    if docname == root_doc:
        measured = [page for page in ('no-failed-connection', 'benchmarks') if 'docs/' + page in app.env.found_docs]
        source[0] += NAVIGATION % ''.join(page + '\n' for page in measured)


def lead_to_ansible(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement) -> nodes.reference | None:
    """Give the link for a label of Ansible's own documentation."""
    page = ANSIBLE_PAGES.get(node['reftarget'])
    return nodes.reference('', '', content, refuri=ANSIBLE + page) if page else None


def lead_to_index(app: Sphinx, exception: Exception | None) -> None:
    """Have the site's first page lead to the index."""
    if exception is None:
        page = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={0}"><a href="{0}">{1}</a>\n'
        pathlib.Path(app.outdir, 'index.html').write_text(page.format(root_doc + '.html', html.escape(project)))


def setup(app: Sphinx) -> None:
    """Tell Sphinx of all this."""
    app.add_directive('mermaid', Mermaid)
    app.connect('source-read', adapt_source)
    app.connect('missing-reference', lead_to_ansible)
    app.connect('build-finished', lead_to_index)
