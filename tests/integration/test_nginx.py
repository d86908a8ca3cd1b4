"""nginx_alpn_stream against a real nginx: what clients see, what is on disk."""

from __future__ import annotations

import harness
import pytest
from nginx_site import SITE, NginxSite

HANDOFFS = ['proxy_protocol', 'pass', 'plain']


@pytest.mark.parametrize('handoff', HANDOFFS)
def test_four_times_and_back(site: NginxSite, handoff: str) -> None:
    before = site.picture()
    with harness.Traffic(site.port, site.names, site.root):
        assert site.run(check=True, handoff=handoff).changed
        assert site.picture() == before
        present = site.run(handoff=handoff)
        assert present.changed and present.value['reloaded'] and present.value['handoff'] == handoff
        there = site.picture()
        assert not site.run(check=True, handoff=handoff).changed
        assert not site.run(handoff=handoff).changed
        assert site.picture() == there

        for name in site.names:
            seen = harness.get(site.port, name, source='127.0.0.9')
            assert seen.body == '%s %s\n' % (name, '127.0.0.1' if handoff == 'plain' else '127.0.0.9')
            assert seen.certificate == harness.fingerprint(site.certificates[name])
            assert harness.get(site.port, name, alpn=['h2', 'http/1.1']).protocol == 'h2'
            assert harness.get(site.port, name, address='::1').body.startswith(name)
        assert 'Location: https://' not in harness.get(site.port, 'a.example', '/away').headers
        with harness.Responder(site.acme, site.root) as responder:
            for address in ('127.0.0.1', '::1'):
                assert harness.offer(site.port, ['acme-tls/1'], address) == (responder.certificate, 'acme-tls/1')
            for protocols in (['h2', 'acme-tls/1'], ['acme-tls/1', 'http/1.1'], ['x-acme-tls/1'], ['ACME-TLS/1'], ['acme-tls/1.1']):
                assert harness.offer(site.port, protocols)[0] != responder.certificate
    if handoff == 'pass':  # nginx itself loses what has not sent its ClientHello when it reloads with `pass` in place
        assert site.run(state='absent').changed
    else:
        with harness.Traffic(site.port, site.names, site.root):
            assert site.run(state='absent', check=True).changed
            assert site.run(state='absent').changed
            assert not site.run(state='absent', check=True).changed
            gone = site.picture()
            assert not site.run(state='absent').changed
            assert site.picture() == gone
    assert site.picture().bytes == before.bytes
    assert site.answers('b.example')


@pytest.mark.parametrize(('first', 'then'), [('proxy_protocol', 'plain'), ('plain', 'proxy_protocol'), ('proxy_protocol', 'pass')])
def test_change_over(site: NginxSite, first: str, then: str) -> None:
    before = site.picture()
    assert site.run(handoff=first).changed
    with harness.Traffic(site.port, site.names, site.root):
        changed = site.run(handoff=then)
        assert changed.changed and changed.value['handoff'] == then
        assert not site.run(handoff=then).changed
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_another_backend_and_responder_port(site: NginxSite) -> None:
    before = site.picture()
    assert site.run().changed
    ports = harness.free_ports(5)
    with harness.Traffic(site.port, site.names, site.root):
        assert site.run(acme_port=ports[0]).changed
        assert site.run(acme_port=ports[0], backend_port=ports[1]).changed
        assert not site.run(acme_port=ports[0], backend_port=ports[1]).changed
        assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes


def test_diff_names_what_changes(site: NginxSite) -> None:
    value = site.run(check=True).value
    by_file = {entry['before_header']: entry for entry in value['diff']}
    available = str(site.conf / 'sites-available' / 'a.example')
    assert 'listen %d ssl' % site.port in by_file[available]['before']
    assert 'listen 127.0.0.1:%d ssl' % site.backend in by_file[available]['after']
    assert [entry for entry in by_file if entry.endswith('seamless-tls-alpn.conf (absent)')]
    assert {(listen['before'], listen['line']) for listen in value['listens']} == {(str(site.port), 2), ('[::]:%d' % site.port, 3)}


def test_new_site_after_the_front(site: NginxSite) -> None:
    assert site.run().changed
    site.names.append('c.example')
    site.certificates['c.example'] = harness.certificate(site.root, 'c.example')
    site.write('c.example', SITE % site.values('c.example'))
    with harness.Traffic(site.port, ['a.example', 'b.example'], site.root):
        assert site.run().changed
        assert harness.get(site.port, 'c.example').body.startswith('c.example')
        assert not site.run().changed


def test_edited_since(site: NginxSite) -> None:
    assert site.run().changed
    path = site.conf / 'sites-available' / 'b.example'
    path.write_text('# mine\n' + path.read_text().replace('http2 on;', 'http2 on; add_header X-Mine yes;'))
    assert site.run().changed
    assert site.answers('b.example')
    assert site.run(state='absent').changed
    assert path.read_text() == '# mine\n' + (SITE % site.values('b.example')).replace('http2 on;', 'http2 on; add_header X-Mine yes;')


def test_files_without_a_reload_are_not_taken_for_done(site: NginxSite) -> None:
    assert site.run(reload='none').changed
    again = site.run()
    assert again.changed and again.value['reloaded']
    assert not site.run().changed


def test_stopped_is_left_stopped(site: NginxSite) -> None:
    before = site.picture()
    site.stop()
    present = site.run()
    assert present.changed and not present.value['reloaded']
    assert not (site.root / 'nginx.pid').read_text()  # nginx -t itself leaves an empty one
    assert not site.run().changed
    site.start()
    assert harness.get(site.port, 'b.example', source='127.0.0.9').body == 'b.example 127.0.0.9\n'
    site.stop()
    assert site.run(state='absent').changed
    assert site.picture().bytes == before.bytes
