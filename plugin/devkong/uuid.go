package devkong

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
)

// entitySpace is the namespace in which Kong makes the ids of declarative entities that have none.
var entitySpace = [16]byte{0xfd, 0x02, 0x80, 0x1f, 0x09, 0x57, 0x4a, 0x15, 0xa5, 0x5a, 0xc8, 0xd9, 0x60, 0x6f, 0x30, 0xb5}

// entityID returns the id that Kong gives to a declarative entity by its kind and its key, so that the ids here are those
// that a real Kong gives to the same file: a version 5 UUID in the namespace of the kind.
func entityID(kind, key string) string {
	space := uuid5(entitySpace, kind)
	return uuidText(uuid5(space, key))
}

func uuid5(space [16]byte, name string) [16]byte {
	h := sha1.New()
	h.Write(space[:])
	h.Write([]byte(name))
	var id [16]byte
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x50
	id[8] = id[8]&0x3f | 0x80
	return id
}

// randomUUID returns a version 4 UUID, which is what Kong gives to an entity that has no key.
func randomUUID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return uuidText(id)
}

// requestID returns 32 hexadecimal digits, as in X-Kong-Request-Id.
func requestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

func uuidText(id [16]byte) string {
	s := hex.EncodeToString(id[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
