// Renders chats by a template as Ollama does: the values of its api (Message, ToolCall, Tool, by their names in Go and
// in JSON), its one function that templates of ours use, and option missingkey=zero (template/template.go).
//
// In: {"template": ..., "chats": [{"messages": [...], "tools": [...]}, ...]}. Out: a list of what was rendered, with the
// messages and tools as Ollama has them in the end (keys of arguments in order, a tool's required before its properties).
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"text/template"
	"text/template/parse"
)

type Function struct {
	Name      string         `json:"name"`
	Arguments map[string]any `json:"arguments"`
}

type ToolCall struct {
	Function Function `json:"function"`
}

type Message struct {
	Role      string     `json:"role"`
	Content   string     `json:"content"`
	ToolCalls []ToolCall `json:"tool_calls,omitempty"`
}

type Property struct {
	Type        any    `json:"type,omitempty"`
	Items       any    `json:"items,omitempty"`
	Description string `json:"description,omitempty"`
	Enum        []any  `json:"enum,omitempty"`
}

type Parameters struct {
	Type       string              `json:"type"`
	Required   []string            `json:"required,omitempty"`
	Properties map[string]Property `json:"properties"`
}

type ToolFunction struct {
	Name        string     `json:"name"`
	Description string     `json:"description,omitempty"`
	Parameters  Parameters `json:"parameters"`
}

type Tool struct {
	Type     string       `json:"type"`
	Function ToolFunction `json:"function"`
}

type Chat struct {
	Messages []*Message `json:"messages"`
	Tools    []Tool     `json:"tools"`
}

type Rendered struct {
	Text string `json:"text"`
	Chat Chat   `json:"chat"`
}

// The tag by which Ollama knows a call: the first text under `if .ToolCalls`, unless an action comes before it.
func tag(nodes []parse.Node, inside bool) string {
	for _, node := range nodes {
		switch n := node.(type) {
		case *parse.TextNode:
			if inside {
				return string(n.Text)
			}
		case *parse.ActionNode:
			if inside {
				return ""
			}
		case *parse.IfNode:
			within := inside || bytes.Contains([]byte(n.Pipe.String()), []byte(".ToolCalls"))
			if found := tag(n.List.Nodes, within); found != "" || within {
				return found
			}
			if n.ElseList != nil {
				if found := tag(n.ElseList.Nodes, inside); found != "" {
					return found
				}
			}
		case *parse.RangeNode:
			if found := tag(n.List.Nodes, inside); found != "" || inside {
				return found
			}
		}
	}
	return ""
}

func main() {
	var given struct {
		Template string `json:"template"`
		Chats    []Chat `json:"chats"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		panic(err)
	}
	functions := template.FuncMap{"json": func(v any) string {
		b, _ := json.Marshal(v)
		return string(b)
	}}
	parsed := template.Must(template.New("").Option("missingkey=zero").Funcs(functions).Parse(given.Template))
	out := struct {
		Tag      string     `json:"tag"`
		Rendered []Rendered `json:"rendered"`
	}{Tag: tag(parsed.Root.Nodes, false)}
	for _, chat := range given.Chats {
		var text bytes.Buffer
		values := map[string]any{"Messages": chat.Messages, "Tools": chat.Tools, "System": "", "Response": ""}
		if err := parsed.Execute(&text, values); err != nil {
			panic(err)
		}
		out.Rendered = append(out.Rendered, Rendered{text.String(), chat})
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		panic(err)
	}
}
