{%- from "tcpdconf/map.jinja" import tcpdconf, command, file with context %}

include:
  - tcpdconf.package.install

tcpdconf-config-file-directory:
  file.directory:
    - name: {{ tcpdconf.directory }}
    - user: {{ tcpdconf.user }}
    - group: {{ tcpdconf.group }}
    - mode: '0755'
    - makedirs: true

# One file, so that every change is one: a port may go from one service to another. The draft, which check_cmd
# gets as its last word, must not lie in the directory itself, where a daemon watches.
tcpdconf-config-file-serialize:
  file.serialize:
    - name: {{ file }}
    - dataset_pillar: tcpdconf:config
    - serializer: tcpdconf_toml
    - serializer_opts:
      - header: "# Written by Salt. What is changed here is lost at the next run.\n\n"
    - user: {{ tcpdconf.user }}
    - group: {{ tcpdconf.group }}
    - mode: '{{ tcpdconf.mode }}'
    - check_cmd: sh -c 'exec {{ command }} check --replace {{ file }}="$0" {{ tcpdconf.directory }}'
    - tmp_dir: {{ salt["file.dirname"](tcpdconf.directory) }}
    - tmp_ext: .toml
    - require:
      - sls: tcpdconf.package.install
      - file: tcpdconf-config-file-directory
