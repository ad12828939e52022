package kafkatest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// fetchTimeout bounds Maven, which may wait long for a network that is not there.
const fetchTimeout = 3 * time.Minute

// minJava is the oldest Java on which a Kafka 4 broker runs.
const minJava = 17

var (
	javaVersion = regexp.MustCompile(`version "(\d+)`)
	// installed answers once for the test binary what is missing on this machine.
	installed = sync.OnceValues(install)
)

// install returns the class path of Kafka, or what is missing for it.
func install() (classPath string, missing error) {
	out, err := exec.Command("java", "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("no JDK: install Java %d or newer (Debian: apt install openjdk-17-jre-headless): %w", minJava, err)
	}
	if m := javaVersion.FindSubmatch(out); m != nil {
		if n, _ := strconv.Atoi(string(m[1])); n < minJava {
			return "", fmt.Errorf("java is version %d: a Kafka broker needs %d or newer", n, minJava)
		}
	}
	pom, err := findPOM()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(pom)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for Kafka's jars: %w", err)
	}
	sum := sha256.Sum256(text)
	dir := filepath.Join(cache, "kafka-metering", "kafka-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := fetch(pom, dir); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "*"), nil
}

// fetch copies the jars to dir, all of them or none.
func fetch(pom, dir string) error {
	if _, err := exec.LookPath("mvn"); err != nil {
		return fmt.Errorf("no Maven to fetch Kafka with: install it (Debian: apt install maven), or name a broker in %s", brokersVariable)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	// go test runs packages side by side: one of them fetches, the others wait.
	lock, err := os.Create(filepath.Join(filepath.Dir(dir), "lock"))
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // it holds nothing but the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("wait for another test to fetch Kafka: %w", err)
	}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) //nolint:errcheck // what is left is small, and in a cache
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "mvn", "--batch-mode", "--quiet", "--file", pom, "dependency:copy-dependencies", "-DoutputDirectory="+work)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("maven cannot fetch Kafka (no network? it takes a mirror from settings.xml): %w\n%s", err, out)
	}
	return os.Rename(work, dir)
}

// findPOM returns the path of testdata/kafka/pom.xml in the module that is tested.
func findPOM() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, "testdata", "kafka", "pom.xml")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("testdata/kafka/pom.xml is not above the working directory")
		}
		dir = parent
	}
}
