package differential

import (
	"os"
	"strings"
	"testing"
)

func TestEachDifferenceIsExplained(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range differences() {
		if !strings.Contains(string(doc), "//\t"+d.name+"  ") {
			t.Errorf("doc.go has no line about %q", d.name)
		}
	}
}
