{{- define "adit.labels" -}}
app.kubernetes.io/part-of: adit
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- /* The platform's paths, those that were set by hand over them. */ -}}
{{- define "adit.cni" -}}
{{- $platform := get .Values.platforms .Values.platform -}}
{{- if not $platform -}}
{{- fail (printf "platform is %q; expected one of: %s" .Values.platform (keys .Values.platforms | sortAlpha | join ", ")) -}}
{{- end -}}
binDir: {{ .Values.cni.binDir | default $platform.binDir }}
confDir: {{ .Values.cni.confDir | default $platform.confDir }}
netnsDir: {{ .Values.cni.netnsDir | default $platform.netnsDir }}
{{- end }}

{{- define "adit.image" -}}
image: {{ .Values.image.name | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "adit.pull" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Of a pod that every node must run. */ -}}
{{- define "adit.node" -}}
nodeSelector:
  kubernetes.io/os: linux
# Nodes that are not ready, under pressure or reserved run pods too.
tolerations:
- operator: Exists
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- /* Annotations of a pod that Prometheus finds. */ -}}
{{- define "adit.scraped" -}}
{{- if .Values.metrics.annotations -}}
annotations:
  prometheus.io/scrape: "true"
  prometheus.io/port: {{ .Values.metrics.port | quote }}
  prometheus.io/path: /metrics
{{- end }}
{{- end }}

{{- /* The helper's container, from its rights on: the one that takes adit off a node has the same. */ -}}
{{- define "adit.helper" -}}
securityContext:
  # Kubernetes grants Bidirectional mount propagation to privileged containers alone. The helper itself keeps
  # SYS_ADMIN, NET_ADMIN and NET_RAW of all the capabilities that this gives, and uses /dev/net/tun where there is one.
  privileged: true
  readOnlyRootFilesystem: true
  runAsUser: 0
  {{- with .Values.helper.seLinuxOptions }}
  seLinuxOptions: {{- toYaml . | nindent 4 }}
  {{- end }}
resources: {{- toYaml .Values.helper.resources | nindent 2 }}
volumeMounts:
# Sockets, and the outer namespaces that are bind-mounted here: they must outlive this container.
- {name: state, mountPath: /run/adit, mountPropagation: Bidirectional}
# Namespaces of pods that start later appear here too.
- {name: netns, mountPath: /var/run/netns, mountPropagation: HostToContainer}
- {name: cni-bin, mountPath: /opt/cni/bin}
- {name: cni-conf, mountPath: /etc/cni/net.d}
{{- end }}

{{- define "adit.helper.volumes" -}}
{{- $cni := include "adit.cni" . | fromYaml -}}
- {name: state, hostPath: {path: /run/adit, type: DirectoryOrCreate}}
- {name: netns, hostPath: {path: {{ $cni.netnsDir }}, type: DirectoryOrCreate}}
- {name: cni-bin, hostPath: {path: {{ $cni.binDir }}, type: DirectoryOrCreate}}
- {name: cni-conf, hostPath: {path: {{ $cni.confDir }}, type: DirectoryOrCreate}}
{{- end }}

{{- /* Made when the release is uninstalled, in order of weight, and deleted once all is done. One that a failed try left is
replaced. */ -}}
{{- define "adit.farewell" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* Checked here, as the wire port is: the helper would refuse it too, but only once it's rolled out. */}}
{{- define "adit.link" -}}
{{- if not (has .Values.helper.link (list "auto" "packet" "tun")) -}}
{{- fail (printf "helper.link is %q; expected auto, packet or tun" .Values.helper.link) -}}
{{- end -}}
{{- .Values.helper.link -}}
{{- end -}}

{{/* Checked here: the agent would refuse it too, but only once it's rolled out. */}}
{{- define "adit.wirePort" -}}
{{- $port := toString .Values.agent.wirePort -}}
{{- if not (has $port (list "original" "15008")) -}}
{{- fail (printf "agent.wirePort is %q; expected original or 15008" $port) -}}
{{- end -}}
{{- $port -}}
{{- end -}}
