{%- from "tcpdconf/map.jinja" import tcpdconf, command with context %}
{%- set package = tcpdconf.package %}
{%- set wheel = package.venv ~ "/" ~ package.wheel.split("/")[-1] %}
{%- set pip = package.venv ~ "/bin/pip install " ~ package.pip_arguments %}
{%- if package.index_url %}
{%-   set pip = pip ~ " --index-url " ~ package.index_url %}
{%- endif %}

include:
  - tcpdconf.check

{%- if package.install %}

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
{%- else %}

tcpdconf-package-install-elsewhere:
  test.nop:
    - require:
      - test: tcpdconf-check-pillar
{%- endif %}
