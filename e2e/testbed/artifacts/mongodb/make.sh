# A server of MongoDB's wire protocol (no package registry carries mongod itself).
maven_jars
javac -cp "$OUT/lib/*" -d "$OUT/classes" "$RECIPE/MongoServerMain.java"
