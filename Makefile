# Each target is one line: the set-up step makes .venv when needed, then runs sftkit in it.
# Without make: python3 sftkit/bootstrap.py run 07
PYTHON ?= python3
SFTKIT = @$(PYTHON) sftkit/bootstrap.py

.PHONY: run test test-slow lab build clean

run: ; $(SFTKIT) run 07
test: ; $(SFTKIT) --dev test
test-slow: ; $(SFTKIT) --dev test --slow
lab: ; $(SFTKIT) lab
build: ; $(SFTKIT) build --all
clean: ; $(SFTKIT) --clean
