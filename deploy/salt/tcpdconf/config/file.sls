{%- from "tcpdconf/map.jinja" import tcpdconf, command, file with context %}
{%- set header = salt["cp.get_file_str"]("salt://tcpdconf/files/header.txt") %}
{%- set check = command ~ " check --replace " ~ file ~ '="$0" ' ~ tcpdconf.directory %}
{%- set refused = "tcpdconf check refuses it, and tcpdconf:show_changes hides why" %}

include:
  - tcpdconf.check
  - tcpdconf.package.install

tcpdconf-config-file-directory:
  file.directory:
    - name: {{ tcpdconf.directory }}
    - user: {{ tcpdconf.user }}
    - group: {{ tcpdconf.group }}
    - mode: '0755'
    - makedirs: true
    - require:
      - test: tcpdconf-check-pillar

# One file, so that every change is one: a port may go from one service to another. The draft, which check_cmd
# gets as its last word, must not lie in the directory itself, where a daemon watches.
tcpdconf-config-file-serialize:
  file.serialize:
    - name: {{ file }}
    - dataset_pillar: tcpdconf:config
    - serializer: tcpdconf_toml
    - serializer_opts:
      - header: {{ header | json }}
    - user: {{ tcpdconf.user }}
    - group: {{ tcpdconf.group }}
    - mode: '{{ tcpdconf.mode }}'
    - show_changes: {{ tcpdconf.show_changes | json }}
    {%- if tcpdconf.show_changes %}
    - check_cmd: sh -c 'exec {{ check }}'
    {%- else %}
    - check_cmd: sh -c '{{ check }} >/dev/null 2>&1 || { echo "{{ refused }}"; exit 1; }'
    {%- endif %}
    - tmp_dir: {{ salt["file.dirname"](tcpdconf.directory) }}
    - tmp_ext: .toml
    - require:
      - test: tcpdconf-check-config
      - sls: tcpdconf.package.install
      - file: tcpdconf-config-file-directory
