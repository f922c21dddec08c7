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
