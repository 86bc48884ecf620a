{{/* Name of the chart, for labels. */}}
{{- define "dreambooth.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of all objects, short enough for what is added to it. */}}
{{- define "dreambooth.fullname" -}}
{{- $name := include "dreambooth.name" . }}
{{- $joined := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $joined .Values.fullnameOverride | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "dreambooth.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "dreambooth.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: required when serviceAccount.create is false; name an account of the release's namespace" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "dreambooth.selector" -}}
app.kubernetes.io/name: {{ include "dreambooth.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dreambooth.labels" -}}
{{ include "dreambooth.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The two labels that every pod of a DreamBoothJob has. */}}
{{- define "dreambooth.jobPods" -}}
app.kubernetes.io/name: dreambooth
app.kubernetes.io/managed-by: dreambooth-operator
{{- end }}

{{/* Reference of an image: (list IMAGE NAME_OF_THE_VALUE ROOT). */}}
{{- define "dreambooth.image" -}}
{{- $image := index . 0 }}
{{- $value := index . 1 }}
{{- $root := index . 2 }}
{{- $repository := required (printf "%s.repository: required; name an image that your nodes can pull, for example registry.example.com/dreambooth" $value) $image.repository }}
{{- if $image.digest }}
{{- printf "%s@%s" $repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default $root.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* settings.yaml: what was given, and what the chart knows better. */}}
{{- define "dreambooth.settings" -}}
{{- $lease := dict "enabled" true "namespace" .Release.Namespace "name" (include "dreambooth.fullname" .) }}
{{- $own := dict "trainerImage" (include "dreambooth.image" (list .Values.trainerImage "trainerImage" .)) "leaderElection" $lease }}
{{- mustMergeOverwrite (deepCopy .Values.settings) $own | toYaml }}
{{- end }}
