{%- from "tcpdconf/map.jinja" import tcpdconf, command, control with context %}
{%- set hidden = (not tcpdconf.show_changes) | json %}

include:
  - tcpdconf.check
  - tcpdconf.package.install
  - tcpdconf.config.file

{%- if tcpdconf.service.manager == "systemd" %}
{#- A Debian package has it. #}
{%-   set unit = not (tcpdconf.package.install and tcpdconf.package.deb) %}
{%-   if unit %}

tcpdconf-service-running-unit:
  file.managed:
    - name: /etc/systemd/system/tcpdconf.service
    - source: salt://tcpdconf/files/tcpdconf.service
    - mode: '0644'
    - require:
      - test: tcpdconf-check-pillar
{%-   endif %}

tcpdconf-service-running-paths:
  file.managed:
    - name: /etc/systemd/system/tcpdconf.service.d/10-paths.conf
    - makedirs: true
    - mode: '0644'
    - contents: |
        # Written by Salt.
        [Service]
        ExecStart=
        ExecStart={{ command }} run {{ control }} {{ tcpdconf.directory }}
        ExecReload=
        ExecReload={{ command }} reload {{ control }}
    - require:
      - test: tcpdconf-check-pillar

{#- An older systemd does not know its keys. #}
{%-   set grows = grains.get("systemd", {}).get("version", 0) | int >= 254 %}
{%-   if grows %}

tcpdconf-service-running-restart:
  file.managed:
    - name: /etc/systemd/system/tcpdconf.service.d/20-restart.conf
    - source: salt://tcpdconf/files/restart.conf
    - makedirs: true
    - mode: '0644'
    - require:
      - test: tcpdconf-check-pillar
{%-   endif %}

tcpdconf-service-running-daemon-reload:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
{%-   if unit %}
      - file: tcpdconf-service-running-unit
{%-   endif %}
      - file: tcpdconf-service-running-paths
{%-   if grows %}
      - file: tcpdconf-service-running-restart
{%-   endif %}

tcpdconf-service-running:
  service.running:
    - name: tcpdconf
    - enable: true
    - require:
      - sls: tcpdconf.config.file
      - module: tcpdconf-service-running-daemon-reload
    - watch:
      - sls: tcpdconf.package.install
{%-   if unit %}
      - file: tcpdconf-service-running-unit
{%-   endif %}
      - file: tcpdconf-service-running-paths
{%- endif %}

# By command, which waits and fails with the daemon's own problems. Where none runs there is none to ask.
tcpdconf-service-running-reload:
  cmd.wait:
    - name: {{ command }} reload {{ control }}
    - onlyif: {{ command }} status {{ control }} >/dev/null
    - hide_output: {{ hidden }}
    - output_loglevel: {{ "debug" if tcpdconf.show_changes else "quiet" }}
    - watch:
      - sls: tcpdconf.config.file

# A reload that was refused left its file where it is: nothing differs at the next run, but it is not done.
tcpdconf-service-running-reload-again:
  cmd.run:
    - name: {{ command }} reload {{ control }}
    - onlyif: >-
        {{ command }} status --format=json {{ control }} | grep -Fq '"ok": false'
    - hide_output: {{ hidden }}
    - output_loglevel: {{ "debug" if tcpdconf.show_changes else "quiet" }}
    - require:
      - cmd: tcpdconf-service-running-reload
