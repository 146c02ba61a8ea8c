{%- from "tcpdconf/map.jinja" import tcpdconf, command with context %}
{%- set package = tcpdconf.package %}
{%- set wheel = package.venv ~ "/" ~ package.wheel.split("/")[-1] %}
{%- set pip = package.venv ~ "/bin/pip install " ~ package.pip_arguments %}
{%- if package.index_url %}
{%-   set pip = pip ~ " --index-url " ~ package.index_url %}
{%- endif %}

include:
  - tcpdconf.check

{%- if package.install and package.deb %}

tcpdconf-package-install-deb:
  file.managed:
    - name: /var/cache/tcpdconf.deb
    - source: {{ package.deb }}
    - mode: '0644'
    - require:
      - test: tcpdconf-check-pillar

# Its own scripts restart a running daemon, if the new version accepts the configuration.
tcpdconf-package-install-apt:
  cmd.run:
    - name: apt-get install --yes --no-install-recommends /var/cache/tcpdconf.deb
    - env:
      - DEBIAN_FRONTEND: noninteractive
    - unless: >-
        test "$(dpkg-query --show --showformat='${db:Status-Status} ${Version}' tcpdconf)"
        = "installed $(dpkg-deb --field /var/cache/tcpdconf.deb Version)"
    - require:
      - file: tcpdconf-package-install-deb
{%- elif package.install %}

tcpdconf-package-install-venv:
  cmd.run:
    - name: {{ package.python }} -m venv {{ package.venv }}
    - creates: {{ package.venv }}/bin/pip
    - require:
      - test: tcpdconf-check-pillar

{%-   if package.wheel %}

tcpdconf-package-install-wheel:
  file.managed:
    - name: {{ wheel }}
    - source: {{ package.wheel }}
    - mode: '0644'
    - require:
      - cmd: tcpdconf-package-install-venv

# installed.whl is what was installed last: a wheel may change and keep its version
tcpdconf-package-install-pip:
  cmd.run:
    - name: {{ pip }} --force-reinstall {{ wheel }} && cp {{ wheel }} {{ package.venv }}/installed.whl
    - unless: cmp -s {{ wheel }} {{ package.venv }}/installed.whl
    - require:
      - file: tcpdconf-package-install-wheel
{%-   else %}

tcpdconf-package-install-pip:
  cmd.run:
    - name: {{ pip }} tcpdconf{{ "==" ~ package.version if package.version else "" }}
    {%- if package.version %}
    - unless: {{ command }} --version | grep -Fqx 'tcpdconf {{ package.version }}'
    {%- else %}
    - creates: {{ command }}
    {%- endif %}
    - require:
      - cmd: tcpdconf-package-install-venv
{%-   endif %}
{%-   if tcpdconf.config.cluster is defined %}

# the extra `cluster` of the package: a wheel cannot name it
tcpdconf-package-install-cluster:
  cmd.run:
    - name: {{ pip }} 'hiredis>=3'
    - unless: {{ package.venv }}/bin/python -c 'import hiredis'
    - require:
      - cmd: tcpdconf-package-install-pip
{%-   endif %}
{%- else %}

tcpdconf-package-install-elsewhere:
  test.nop:
    - require:
      - test: tcpdconf-check-pillar
{%- endif %}
