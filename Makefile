# Set-up, tests and demo of the collection; `make demo` and `make test` do all that they need.
SHELL := /bin/bash
.DELETE_ON_ERROR:

CACHE := $(CURDIR)/.cache
BIN := $(CURDIR)/.venv/bin
TREE := $(CACHE)/tree
# The first of these that is Python 3.11 or later and can make virtual environments.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$python; break; }; done)
SCENARIOS ?= nginx haproxy apache fleet
export PATH := $(BIN):$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CACHE):$(CACHE)/deps
export ANSIBLE_HOME := $(CACHE)/ansible

SPHINX := $(CACHE)/docs-venv

.PHONY: docs bench bench-rounds bench-quick prove prove-quick faults fuzz demo test lint unit sanity integration installed molecule packages venv checkout deps install build clean

demo: venv checkout
	$(BIN)/python demo/demo.py

# Three at a time, since much of it waits for something, the longest first. Each says at its end what it had to say; one that failed, at the very end.
TESTS := molecule integration sanity lint unit installed
LOGS := $(CACHE)/test
test: packages install deps
	rm -rf $(LOGS)
	mkdir $(LOGS)
	$(MAKE) --jobs=3 --keep-going $(TESTS:%=test-%) || { tail -n 80 $(LOGS)/*; echo "Failed: $$(ls $(LOGS) | xargs)"; exit 1; }

$(TESTS:%=test-%): test-%:
	@$(MAKE) -o packages -o build -o install $* >$(LOGS)/$* 2>&1 && cat $(LOGS)/$* && rm $(LOGS)/$*

packages:
	.ci/packages.sh

venv: .venv/stamp
.venv/stamp: requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later with venv is needed (Debian: apt-get install python3-venv)." >&2; exit 1; }
	@test ! -L .venv || { echo ".venv is a link; making it anew would clear what it leads to." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install -qq -r requirements-dev.txt
	touch $@

# This checkout, where Python and Ansible look for the collection.
checkout:
	@mkdir -p $(CACHE)/ansible_collections/seamless
	@ln -sfn ../../.. $(CACHE)/ansible_collections/seamless/tls_alpn

deps: $(CACHE)/deps/stamp
$(CACHE)/deps/stamp: .venv/stamp
	$(BIN)/pip download -qq --no-deps -d $(CACHE)/wheels ansible
	$(BIN)/python .ci/unpack_collections.py $(CACHE)/wheels/ansible-*.whl $(CACHE)/deps community.docker
	touch $@

build: venv
	.ci/tree.sh $(TREE)
	rm -rf $(TREE)/ansible_collections/seamless/tls_alpn/.git $(CACHE)/dist
	$(BIN)/ansible-galaxy collection build --output-path $(CACHE)/dist $(TREE)/ansible_collections/seamless/tls_alpn

# What users install: the tarball.
install: build
	rm -rf $(CACHE)/installed
	ANSIBLE_COLLECTIONS_PATH=$(CACHE)/installed $(BIN)/ansible-galaxy collection install --offline --force -p $(CACHE)/installed $(CACHE)/dist/*.tar.gz

# What these do is in antsibull-nox.toml and noxfile.py; a session whose Python is not here is named as skipped at the end. (Without CI, lint formats.)
lint: venv build packages
	CI=true nox --session lint docs-check extra-checks ansible-lint typing changelog galaxy

unit: venv
	nox --session units-2.19 units-2.21

sanity: venv packages
	nox --session sanity-2.19 sanity-2.21

installed: venv build
	nox --session installed

integration: venv install packages
	PYTHONPATH=$(CACHE)/installed ANSIBLE_COLLECTIONS_PATH=$(CACHE)/installed pytest -q -rs -n 2 tests/integration
	nox --session integration-2.19

molecule: venv install deps packages
	@rc=0; ANSIBLE_COLLECTIONS_PATH=$(CACHE)/installed:$(CACHE)/deps .ci/with-docker.sh .ci/molecule.sh $(SCENARIOS) || rc=$$?; \
	if [ $$rc = 3 ]; then echo "The Molecule scenarios ($(SCENARIOS)) were NOT run; everything else was."; else exit $$rc; fi

# The documentation site: .cache/docs/html/index.html.
docs: $(SPHINX)/stamp checkout
	rm -rf $(CACHE)/docs
	mkdir -p $(CACHE)/docs/source/reference
	cp --parents docs/*.md docs/*.json docs/*.svg roles/*/README.md CHANGELOG.md CONTRIBUTING.md $(CACHE)/docs/source
	PATH=$(SPHINX)/bin:$(PATH) antsibull-docs collection --use-current --squash-hierarchy --fail-on-error \
		--no-add-antsibull-docs-version --dest-dir $(CACHE)/docs/source/reference seamless.tls_alpn
	$(SPHINX)/bin/sphinx-build -W --keep-going -q -c docs $(CACHE)/docs/source $(CACHE)/docs/html
	@echo "The site is in $(CACHE)/docs/html/index.html."

$(SPHINX)/stamp: docs/requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later with venv is needed (Debian: apt-get install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(SPHINX)
	$(SPHINX)/bin/pip install -qq -r docs/requirements.txt
	touch $@

# What the front, the modules and the role cost, measured here (root, Docker, two cores): docs/benchmarks.md. bench-quick writes to .cache instead, needs neither
# root nor Docker, and measures what is there.
IN_DEBIAN := tests/bench/debian.sh python3 tests/bench
BENCH := $(BIN)/python tests/bench
bench bench-rounds: RESULT = docs/benchmarks
bench: venv checkout deps $(CACHE)/bench-venv/stamp
	.ci/packages.sh
	.ci/with-docker.sh $(MAKE) bench-rounds
	$(CACHE)/bench-venv/bin/python tests/bench/report.py $(RESULT).json $(RESULT).md $(RESULT).svg

bench-rounds bench-quick: export PYTHONPATH := $(CACHE):tests/integration
bench-rounds:
	.ci/image.sh trixie $(CACHE)/images
	.ci/image.sh bookworm $(CACHE)/images
	$(IN_DEBIAN)/data_path.py --nginx /usr/sbin/nginx --rounds 21 --scale 0.3 --result $(RESULT).json
	tests/bench/ext4.sh $(IN_DEBIAN)/module_scale.py --nginx /usr/sbin/nginx --rounds 5 --sites 10 100 1000 10000 20000 --result $(RESULT).json
	$(BENCH)/play.py --rounds 5 --hosts 1 5 20 --result $(RESULT).json

bench-quick: RESULT = $(CACHE)/benchmarks
bench-quick: venv checkout $(CACHE)/bench-venv/stamp
	$(BENCH)/data_path.py --rounds 1 --scale 0.05 --result $(RESULT).json
	$(BENCH)/module_scale.py --rounds 1 --sites 10 100 1000 --result $(RESULT).json
	$(CACHE)/bench-venv/bin/python tests/bench/report.py $(RESULT).json $(RESULT).md $(RESULT).svg

$(CACHE)/bench-venv/stamp: tests/bench/requirements.txt
	$(PYTHON) -m venv --clear $(CACHE)/bench-venv
	$(CACHE)/bench-venv/bin/pip install -qq -r tests/bench/requirements.txt
	touch $@

# Every connection accounted for, through all that the roles do (with root also from 50 ms away): docs/no-failed-connection.md; prove-quick writes to .cache.
prove: PAGE = docs/no-failed-connection
prove-quick: PAGE = $(CACHE)/no-failed-connection
prove-quick: PROVE = --connections 2000 --reloads 3 --handoffs 1 --loopback
prove prove-quick: venv install packages $(CACHE)/prove-venv/stamp
	PYTHONPATH=$(CACHE)/installed:tests/integration:tests/bench $(BIN)/python tests/prove/prove.py $(PROVE) \
		--clients $(CACHE)/prove-venv/bin/python --result $(CACHE)/prove.json
	$(BIN)/python tests/prove/report.py $(CACHE)/prove.json $(PAGE).md $(PAGE).json

$(CACHE)/prove-venv/stamp: tests/prove/requirements.txt
	$(PYTHON) -m venv --clear $(CACHE)/prove-venv
	$(CACHE)/prove-venv/bin/pip install -qq -r tests/prove/requirements.txt
	touch $@

# A fault at every step of every module, and every state that a power loss may leave (make test takes every 23rd step): docs/reliability.md.
faults: venv install packages
	rm -rf $(CACHE)/faults
	mkdir -p $(CACHE)/faults
	PYTHONPATH=$(CACHE)/installed FAULTS_REPORT=$(CACHE)/faults STRIDE=1 pytest -q -n 4 tests/integration/test_every_step.py tests/integration/test_power_loss.py
	$(BIN)/python tests/integration/report_faults.py $(CACHE)/faults

# Ever new input for the readers and editors, for MINUTES in all; what breaks one belongs into tests/fuzz/found.
MINUTES ?= 30
PROPERTIES := nginx haproxy apache settings spans records
fuzz: checkout $(CACHE)/fuzz-venv/stamp
	mkdir -p $(CACHE)/fuzz
	for property in $(PROPERTIES); do PYTHONPATH=$(CACHE) nice $(CACHE)/fuzz-venv/bin/python tests/fuzz/fuzz.py $$property $(CACHE)/fuzz \
		-max_len=2000 -max_total_time=$$(($(MINUTES) * 60 / $(words $(PROPERTIES)))) || exit 1; done

$(CACHE)/fuzz-venv/stamp: tests/fuzz/requirements.txt
	$(PYTHON) -m venv --clear $(CACHE)/fuzz-venv
	$(CACHE)/fuzz-venv/bin/pip install -qq -r tests/fuzz/requirements.txt
	touch $@

clean:
	rm -rf .venv .cache
